"""The critical batch size from branches: which branches to train, and what their losses say. Plain numbers: no torch, no trainer.

Short trainings with several batch sizes go on from one checkpoint, each with the same number of examples and the same noise. The critical
batch size is the largest up to which nothing is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev

from noisescale.errors import ConfigError
from noisescale.measures.gradients import student_quantile
from noisescale.plans.noise import NOISE_RULES, noise_rule_of

__all__ = [
    "PARTS",
    "RULES",
    "Arm",
    "Comparison",
    "CriticalBatch",
    "Losses",
    "compare",
    "critical_batch",
    "examples_of_branch",
    "rules_of",
    "sizes_of_branches",
    "stopped_by",
]

PARTS = 8
"""The loss is evaluated after each eighth of a branch, so that a branch has at least so many updates."""

RULES = {"linear": 1.0, "sqrt": 0.5}
"""Exponent p of lr ~ B^p, which keeps the noise: linear that of SGD, sqrt that of an optimizer that divides by the size of the gradient."""

LOWER, HALF = 4, 0.5
"""The smallest branch has B / 4 examples per update. The branches that tell the rate from the batch have half the rate."""


def rules_of(optimizer: str) -> tuple[str, ...]:
    """The rules that may keep the noise of an optimizer, by its class name: linear for SGD; for an adaptive one both are candidates.

    For SGD lr ~ B keeps g = lr (N/B - 1) for B << N; the theory of normalised updates has lr ~ sqrt(B) for Adam (Malladi et al.
    2205.10287), but lr ~ B was as good or better where it was tried (Smith et al. 1711.00489).
    """
    return ("linear",) if NOISE_RULES[noise_rule_of(optimizer)] == 1.0 else ("linear", "sqrt")


@dataclass(frozen=True, order=True)
class Arm:
    """What the branches of one batch size have in common, apart from their seed.

    Args:
        rule: how the learning rate goes with the batch, a key of `RULES`.
        size: B, examples per update.
        factor: a further factor of the learning rate: 1, or 1/2 in the branches that tell the rate from the batch.
    """

    rule: str
    size: int
    factor: float = 1.0

    def rate(self, trunk_size: int) -> float:
        """lr / lr of the training that it branches from, which has `trunk_size` examples per update: factor (B / B0)^p."""
        return self.factor * float((self.size / trunk_size) ** RULES[self.rule])


# -- which branches -----------------------------------------------------------------------------------------------------------


def sizes_of_branches(size: int, most: int, at_least: int = 1) -> list[int]:
    """The batch sizes of branches, ascending: about B/4 and B/2, then B, 2 B, 4 B, ... up to `most`.

    Those below B are divisors of B, the nearest ones by ratio, so that all branches can have the same number of examples.

    Args:
        size: B of the training, at its checkpoint.
        most: the largest.
        below: the smallest size that is worse; inf if none of them is.
        at_least: the smallest, such as 2 for batch norm.
    """
    divisors = [d for d in range(max(1, at_least), size) if size % d == 0]
    below = {min(divisors, key=lambda d: abs(math.log(d * part / size))) for part in (LOWER, 2) if divisors}
    above = [size << k for k in range(64) if size << k <= most]
    return sorted({d for d in below if d <= most} | set(above))


def examples_of_branch(length: int, sizes: Sequence[int]) -> int:
    """The number of examples of each branch, at least `length`: a multiple of 8 times each size, so that no branch has an update more.

    Raises:
        ConfigError: the sizes fit together only in a branch of more than twice that length.
    """
    unit = PARTS * math.lcm(*sizes)
    examples = unit * max(1, math.ceil(length / unit))
    if examples > 2 * max(length, PARTS * max(sizes)):
        problem = f"have no common multiple near {length} examples, the length of a branch: the next is {examples}"
        raise ConfigError("sizes", list(sizes), problem, "give sizes that divide each other, such as [16,32,64]")
    return examples


# -- what they say ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """The loss of one branch on examples that are the same for all branches.

    Args:
        start: at the checkpoint.
        parts: after each eighth of the branch; fewer if it was nan or inf, where the branch ended.
    """

    start: float
    parts: tuple[float, ...]

    @property
    def diverged(self) -> bool:
        """Whether the loss became nan or inf."""
        return len(self.parts) < PARTS or not all(map(math.isfinite, self.parts))

    @property
    def end(self) -> float:
        """The loss at the end: the geometric mean of the last two values, which are 1/8 of the branch apart; inf if it diverged."""
        if self.diverged:
            return math.inf
        last = self.parts[-2:]
        return math.exp(fmean(map(math.log, last))) if min(last) > 0 else fmean(last)


@dataclass(frozen=True)
class Comparison:
    """The loss of an arm against that of the smallest batch, seed by seed: log(L / L of the smallest batch).

    Args:
        verdict: `same`: at most the tolerance is lost; `worse`: more is lost; `undecided`: the spread over seeds leaves it open.
        mean: of the logarithm; inf if a branch diverged.
        error: its standard error.
        low, high: bounds, each of which the mean is beyond with a probability of 5 %.
    """

    verdict: str
    mean: float
    error: float
    low: float
    high: float


def compare(losses: Sequence[float], reference: Sequence[float], tolerance: float) -> Comparison:
    """Whether an arm loses more than `tolerance`, relatively, against the reference: two one-sided tests of 5 %, paired by seed.

    `same` if mean + t s/sqrt(n) <= log(1 + tolerance), `worse` if mean - t s/sqrt(n) > log(1 + tolerance), with the 95 % quantile t of
    Student's distribution with n - 1 degrees of freedom. An arm of which a branch diverged is worse.

    Args:
        losses, reference: the losses at the end, one per seed, in the same order; at least two.
        tolerance: > 0, stated before the branches are trained.
    """
    logs = [_log_ratio(mine, other) for mine, other in zip(losses, reference, strict=True)]
    if not all(map(math.isfinite, logs)):
        return Comparison("worse", math.inf, math.nan, math.inf, math.inf)
    mean, error = fmean(logs), stdev(logs) / math.sqrt(len(logs))
    reach, limit = student_quantile(0.95, len(logs) - 1) * error, math.log1p(tolerance)
    verdict = "same" if mean + reach <= limit else "worse" if mean - reach > limit else "undecided"
    return Comparison(verdict, mean, error, mean - reach, mean + reach)


def _log_ratio(mine: float, other: float) -> float:
    if not (math.isfinite(mine) and math.isfinite(other)):
        return math.inf
    return math.log(mine / other) if mine > 0 and other > 0 else 0.0 if mine == other else math.inf


@dataclass(frozen=True)
class CriticalBatch:
    """The critical batch size, between two sizes that were tried.

    Args:
        at_least: the largest size below that one that is the same as the smallest. The loss is taken to grow with the size, so that those
            in between, which the spread may leave undecided, are the same, too.
        estimate: where the mean loss crosses the tolerance, on a scale of log B; nan if it does not.
        cause: what stopped the branches at `below`: `rate`, `batch`, `not sure`, or `none` if nothing did.
    """

    at_least: float
    below: float
    estimate: float
    cause: str = "none"

    def in_words(self) -> str:
        """`about 200 (128 to 512)`, or `512 or more`."""
        if math.isinf(self.below):
            return f"{self.at_least:.0f} or more"
        bracket = f"{self.at_least:.0f} to {self.below:.0f}"
        return f"about {self.estimate:.0f} ({bracket})" if math.isfinite(self.estimate) else bracket


def critical_batch(found: Mapping[int, Comparison], tolerance: float) -> CriticalBatch:
    """The bracket of the critical batch size.

    Args:
        found: size -> its comparison with the smallest size, for each size that was tried, itself included.
        tolerance: as in `compare`.
    """
    below = min((size for size, each in found.items() if each.verdict == "worse"), default=math.inf)
    same = [size for size, each in found.items() if each.verdict == "same" and size < below]
    at_least = max(same, default=min(found))
    return CriticalBatch(at_least, below, _crossing(found, math.log1p(tolerance)))


def _crossing(found: Mapping[int, Comparison], limit: float) -> float:
    """The first size at which the mean crosses the limit, linearly in log B; in the middle, if the branches of the larger one diverged."""
    for lower, upper in pairwise(sorted(found)):
        before, after = found[lower].mean, found[upper].mean
        if before <= limit < after:
            share = 0.5 if math.isinf(after) else (limit - before) / (after - before)
            return float(lower * (upper / lower) ** share)
    return math.nan


def stopped_by(worse: Sequence[Losses], half: Comparison | None, tolerance: float) -> str:
    """What stopped the branches at the first size that is worse: the learning rate, which grew with the batch, or the batch itself.

    `rate`: a branch diverged, or most of them end above the loss of the checkpoint by more than the tolerance; or, with half the learning
    rate, that size is the same as the largest one that was the same before, also with half the learning rate: the noise of the two is
    equal again. `batch`: it is worse with half the learning rate, too. A loss that rises for a while says neither, because the learning
    rate of a large branch jumps at its beginning.

    Args:
        worse: the losses of the branches of that size.
        half: the comparison at half the rate; None: not made.
        tolerance: as in `compare`.

    Not to be confused with a proof of stability: `rate` says that a lower rate moves the wall, `batch` that it stays.
    """
    if any(losses.diverged for losses in worse) or median(losses.end / losses.start for losses in worse) > 1 + tolerance:
        return "rate"
    if half is None:
        return "not sure"
    return {"same": "rate", "worse": "batch"}.get(half.verdict, "not sure")

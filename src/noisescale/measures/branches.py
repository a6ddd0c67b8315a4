"""The branches of a training: which to train, and the loss of one of them. Plain numbers: no torch, no trainer.

Short trainings with several batch sizes go on from one checkpoint, each with the same number of examples and the same noise. What their
losses say is in `branch_verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from noisescale.errors import ConfigError
from noisescale.plans.noise import NOISE_RULES, noise_rule_of

__all__ = [
    "PARTS",
    "RULES",
    "Arm",
    "Losses",
    "examples_of_branch",
    "rules_of",
    "sizes_of_branches",
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


# -- their losses --------------------------------------------------------------------------------------------------------------


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

"""What the losses of branches say: whether an arm loses something, the critical batch size, and what stopped it. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, takewhile
from statistics import fmean, median, stdev

from noisescale.measures.branches import Losses
from noisescale.measures.gradients import student_quantile

__all__ = ["Comparison", "CriticalBatch", "Reference", "compare", "critical_batch", "stopped_by"]

LEVEL = 0.05
"""The probability of each one-sided error."""


@dataclass(frozen=True)
class Reference:
    """The branches that the others are compared with, and how much more than their loss is allowed.

    allowed = min(tolerance L_ref, gain_tolerance P), where P = L_start - L_ref is what the reference gains in a branch, if P > 0 is
    significant (one-sided 5 % over the seeds); otherwise tolerance |L_ref|. A loss that is not above 0, such as that of a density, is only
    compared by what is gained, if that is anything. A tolerance alone would pass everything where the loss has a floor that it cannot fall
    below: 20 % of such a loss is more than a branch can gain.

    Args:
        start: the loss at the checkpoint, L_start.
        ends: the losses at the end, one per seed, at least two; inf where a branch diverged.
        tolerance: > 0, relative to the loss.
        gain_tolerance: in (0, 1], relative to what the reference gains.
    """

    start: float
    ends: tuple[float, ...]
    tolerance: float
    gain_tolerance: float

    @cached_property
    def gain(self) -> float:
        """P, the mean over seeds; -inf if a branch diverged."""
        return self.start - fmean(self.ends)

    @cached_property
    def gains(self) -> bool:
        """Whether P > 0 is significant. Where it is not, every batch size ends at about the same loss, and only instability can show."""
        if not all(map(math.isfinite, (self.start, *self.ends))):
            return False
        return self.gain - _reach([self.start - end for end in self.ends]) > 0

    @cached_property
    def by_progress(self) -> bool:
        """Whether the limit is the share of the progress: where that is less than the tolerance allows, or the loss is not above 0."""
        return self.gains and (min(self.ends) <= 0 or self.gain_tolerance * self.gain < self.tolerance * fmean(self.ends))

    @cached_property
    def limits(self) -> tuple[float, ...]:
        """The highest loss that is allowed, for each seed."""
        if self.by_progress:
            return tuple(end + self.gain_tolerance * (self.start - end) for end in self.ends)
        return tuple(end + self.tolerance * abs(end) for end in self.ends)

    @property
    def allowed(self) -> float:
        """By how much the loss of an arm may exceed that of the reference, a mean over seeds."""
        return fmean(limit - end for limit, end in zip(self.limits, self.ends, strict=True))


@dataclass(frozen=True)
class Comparison:
    """The losses of an arm against those of the reference, seed by seed.

    Args:
        verdict: `same`: at most what is allowed is lost; `worse`: more is lost; `undecided`: the spread over seeds leaves it open.
        mean: of log(L / L_ref); inf if a branch diverged, nan if a loss is not above 0.
        error: its standard error.
        low, high: bounds, each of which the mean is beyond with a probability of 5 %.
        excess: the mean of log(L / limit), or of L - limit if a loss is not above 0; inf if a branch diverged. Above 0 more than what is
            allowed is lost.
        reach: how far from 0 the mean of these has to be for a verdict, with this spread and this number of seeds.
        lost: (L - L_ref) / P, the share of the progress of the reference that the arm loses; nan where P > 0 is not significant, inf if a
            branch diverged.
    """

    verdict: str
    mean: float
    error: float
    low: float
    high: float
    excess: float
    reach: float
    lost: float


def compare(losses: Sequence[float], reference: Reference) -> Comparison:
    """Whether an arm loses more than is allowed against the reference: two one-sided tests of 5 %, paired by seed.

    With x = log(L / limit), or x = L - limit where a loss is not above 0: `same` if mean(x) + t s/sqrt(n) <= 0, `worse` if
    mean(x) - t s/sqrt(n) > 0, with the 95 % quantile t of Student's distribution with n - 1 degrees of freedom. An arm of which a single
    branch diverged is worse, without a test. An arm whose mean loss rises above that of the checkpoint while that of the reference falls is
    not `same`.

    Args:
        losses: at the end, one per seed, in the order of the reference.
        reference: what they are compared with, and what is allowed.
    """
    pairs = list(zip(losses, reference.ends, reference.limits, strict=True))
    if not all(map(math.isfinite, (*losses, *reference.ends))):
        return Comparison("worse", math.inf, math.nan, math.inf, math.inf, math.inf, math.nan, math.inf)
    positive = min(*losses, *reference.ends, *reference.limits) > 0
    logs = [math.log(mine / other) for mine, other, _ in pairs] if positive else [math.nan]
    beyond = [math.log(mine / limit) if positive else mine - limit for mine, _, limit in pairs]
    excess, reach = fmean(beyond), _reach(beyond)
    verdict = "same" if excess + reach <= 0 else "worse" if excess - reach > 0 else "undecided"
    if verdict == "same" and fmean(losses) > reference.start > fmean(reference.ends):
        verdict = "undecided"
    if tuple(losses) == reference.ends:
        verdict = "same"
    lost = fmean(mine - other for mine, other, _ in pairs) / reference.gain if reference.gains else math.nan
    mean, error, wide = (fmean(logs), stdev(logs) / math.sqrt(len(logs)), _reach(logs)) if positive else (math.nan,) * 3
    return Comparison(verdict, mean, error, mean - wide, mean + wide, excess, reach, lost)


def _reach(values: Sequence[float]) -> float:
    """t s/sqrt(n): a mean that is farther than this from 0 differs from 0, one-sided."""
    return student_quantile(1 - LEVEL, len(values) - 1) * stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class CriticalBatch:
    """The critical batch size, between two sizes that were tried.

    Args:
        at_least: the largest size such that it and every smaller one that was tried is the same as the smallest. It is too large with a
            probability of at most 5 %, if the number of seeds was chosen beforehand and no branch diverges.
        below: the smallest size that is worse; inf if none of them is.
        estimate: where the mean crosses what is allowed, on a scale of log B, within the bracket; nan if no size is worse, or if one in
            between is undecided, because the mean may then cross by chance.
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
        if self.below <= self.at_least:
            return f"below {self.below:.0f}, the smallest that was tried"
        bracket = f"{self.at_least:.0f} to {self.below:.0f}"
        return f"about {self.estimate:.0f} ({bracket})" if math.isfinite(self.estimate) else bracket


def critical_batch(found: Mapping[int, Comparison]) -> CriticalBatch:
    """The bracket of the critical batch size.

    The sizes are tested in a fixed sequence, from the smallest up, which stops at the first that is not `same`. So the probability that the
    lower end is too large stays 5 %, however many sizes there are: it is too large only if the first size that really loses more than is
    allowed passes. The largest of all that pass is too large more often, because each of them may pass by chance.

    Args:
        found: size -> its comparison with the smallest size, for each size that was tried, itself included.
    """
    sizes = sorted(found)
    at_least = max(takewhile(lambda size: found[size].verdict == "same", sizes), default=sizes[0])
    below = min((size for size in sizes if found[size].verdict == "worse"), default=math.inf)
    inside = [size for size in sizes if at_least <= size <= below]
    closed = math.isfinite(below) and all(found[size].verdict != "undecided" for size in inside)
    return CriticalBatch(at_least, below, _crossing(found, inside) if closed else math.nan)


def _crossing(found: Mapping[int, Comparison], sizes: Sequence[int]) -> float:
    """Where the mean of `excess` first crosses 0, linearly in log B; in the middle, if the branches of the larger size diverged."""
    for lower, upper in pairwise(sizes):
        before, after = found[lower].excess, found[upper].excess
        if before <= 0 < after:
            share = 0.5 if math.isinf(after) else -before / (after - before)
            return float(lower * (upper / lower) ** share)
    return math.nan


def stopped_by(worse: Sequence[Losses], half: Comparison | None, allowed: float, apart: float = 2.0) -> str:
    """What stopped the branches at the first size that is worse: the learning rate, which grew with the batch, or the batch itself.

    `rate`: a branch diverged, or most of them end above the loss of the checkpoint by more than is allowed; or, with half the learning
    rate, that size is the same as the largest one that was the same before, also with half the learning rate: the noise of the two is
    equal again. `batch`: it is worse with half the learning rate, too, and at most twice the size that was the same: then its rate is no
    higher than one at which nothing was lost. A loss that rises for a while says neither, because the learning rate of a large branch jumps
    at its beginning.

    Args:
        worse: the losses of the branches of that size.
        half: the comparison at half the rate; None: not made.
        allowed: of the reference.
        apart: the size that is worse over the largest one that was the same.

    Not to be confused with a proof of stability: `rate` says that a lower rate moves the wall, `batch` that it stays.
    """
    if any(losses.diverged for losses in worse) or median(losses.end - losses.start for losses in worse) > allowed:
        return "rate"
    if half is None:
        return "not sure"
    return "rate" if half.verdict == "same" else "batch" if half.verdict == "worse" and apart <= 2.0 else "not sure"

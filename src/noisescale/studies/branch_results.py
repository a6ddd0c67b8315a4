"""What the branches of a training have shown: the comparisons, the critical batch at each checkpoint, in words and as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branch_verdicts import Comparison, CriticalBatch, Reference, compare, critical_batch, stopped_by
from noisescale.measures.branches import HALF, RULES, Arm
from noisescale.plans.noise import sgd_noise_scale
from noisescale.studies.branching import BranchRow, Point

__all__ = ["PointFound", "RuleFound", "SizeFound", "found_at", "more_telling", "reference_of"]


@dataclass(frozen=True)
class SizeFound:
    """The branches of one batch size.

    Args:
        size, lr, updates: of each of them.
        loss, spread: mean of the losses at the end over seeds, and their standard deviation; inf and nan if one diverged.
        diverged: how many diverged.
        noise: g of the branch / g of the training.
        compared: with the smallest size.
    """

    size: int
    lr: float
    updates: int
    loss: float
    spread: float
    noise: float
    compared: Comparison
    diverged: int = 0


@dataclass(frozen=True)
class RuleFound:
    """What the branches of one rule have shown.

    Args:
        rule: how the learning rate went with the batch.
        sizes: ascending.
        reference: the branches of the smallest size, and what is allowed.
        critical: the bracket of the critical batch, and what stopped the branches there.
        half: the comparison at half the rate, at the first size that is worse; None: not made.
    """

    rule: str
    sizes: tuple[SizeFound, ...]
    reference: Reference
    critical: CriticalBatch
    half: Comparison | None


@dataclass(frozen=True)
class PointFound:
    """What the branches from one checkpoint have shown, by rule."""

    at: Point
    rules: tuple[RuleFound, ...]

    def plain(self) -> dict[str, Any]:
        """The same for JSON; what is nan or infinite is None."""
        plain: dict[str, Any] = _plain(
            {**asdict(self.at), "noise_scale": self.at.noise_scale, "rules": [asdict(rule) for rule in self.rules]}
        )
        return plain


def found_at(point: Point, rows: Iterable[BranchRow], options: BranchOptions) -> PointFound:
    """What the branches from a checkpoint have shown, as far as all seeds of a size are there."""
    arms: dict[Arm, list[BranchRow]] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        if row.point == point.point and row.seed < options.seeds:
            arms.setdefault(row.arm, []).append(row)
    whole = {arm: found for arm, found in arms.items() if len(found) == options.seeds}
    found_rules = (_rule(point, rule, whole, options) for rule in RULES)
    return PointFound(point, tuple(each for each in found_rules if each is not None))


def _rule(point: Point, rule: str, arms: dict[Arm, list[BranchRow]], options: BranchOptions) -> RuleFound | None:
    sizes = sorted(arm.size for arm in arms if arm.rule == rule and arm.factor == 1.0)
    if not sizes:
        return None
    of_size = {size: arms[Arm(rule, size)] for size in sizes}
    ends = {size: [row.curve.end for row in rows] for size, rows in of_size.items()}
    reference = reference_of(of_size[sizes[0]], options)
    compared = {size: compare(ends[size], reference) for size in sizes}
    critical, half = critical_batch(compared), None
    if math.isfinite(critical.below):
        worse = int(critical.below)
        halves = [arms.get(Arm(rule, size, HALF)) for size in (int(critical.at_least), worse)]
        if halves[0] is not None and halves[1] is not None:
            half = compare([row.curve.end for row in halves[1]], reference_of(halves[0], options))
        critical = replace(
            critical, cause=stopped_by([row.curve for row in of_size[worse]], half, reference.allowed, critical.below / critical.at_least)
        )
    noise = sgd_noise_scale(point.lr, point.num_examples, point.size)
    shown = []
    for size, rows in of_size.items():
        g = sgd_noise_scale(rows[0].lr, point.num_examples, size)
        spread = stdev(ends[size]) if all(map(math.isfinite, ends[size])) else math.nan
        kept = g / noise if noise else math.nan
        diverged = sum(row.curve.diverged for row in rows)
        shown.append(SizeFound(size, rows[0].lr, rows[0].updates, fmean(ends[size]), spread, kept, compared[size], diverged))
    return RuleFound(rule, tuple(shown), reference, critical, half)


def reference_of(rows: Sequence[BranchRow], options: BranchOptions) -> Reference:
    """The branches of an arm as what others are compared with."""
    return Reference(rows[0].start, tuple(row.curve.end for row in rows), options.tolerance, options.gain_tolerance)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def more_telling(first: list[PointFound], second: list[PointFound]) -> list[PointFound]:
    """Of two studies that with more branch sizes at all its checkpoints; the first, if both have as many."""
    return max(first, second, key=lambda each: sum(len(rule.sizes) for point in each for rule in point.rules))

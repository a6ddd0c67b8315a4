"""What the branches of a training have shown: the comparisons, the critical batch at each checkpoint, in words and as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from noisescale.measures.branches import HALF, RULES, Arm, Comparison, CriticalBatch, compare, critical_batch, stopped_by
from noisescale.plans.noise import sgd_noise_scale
from noisescale.studies.branching import BranchRow, Point

__all__ = ["PointFound", "RuleFound", "SizeFound", "found_at", "in_words"]


@dataclass(frozen=True)
class SizeFound:
    """The branches of one batch size.

    Args:
        size, lr, updates: of each of them.
        loss, spread: mean of the losses at the end over seeds, and their standard deviation.
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


@dataclass(frozen=True)
class RuleFound:
    """What the branches of one rule have shown.

    Args:
        rule: how the learning rate went with the batch.
        sizes: ascending.
        critical: the bracket of the critical batch, and what stopped the branches there.
        half: the comparison at half the rate, at the first size that is worse; None: not made.
    """

    rule: str
    sizes: tuple[SizeFound, ...]
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


def found_at(point: Point, rows: Iterable[BranchRow], seeds: int, tolerance: float) -> PointFound:
    """What the branches from a checkpoint have shown, as far as all seeds of a size are there."""
    arms: dict[Arm, list[BranchRow]] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        if row.point == point.point and row.seed < seeds:
            arms.setdefault(row.arm, []).append(row)
    whole = {arm: found for arm, found in arms.items() if len(found) == seeds}
    found_rules = (_rule(point, rule, whole, tolerance) for rule in RULES)
    return PointFound(point, tuple(each for each in found_rules if each is not None))


def _rule(point: Point, rule: str, arms: dict[Arm, list[BranchRow]], tolerance: float) -> RuleFound | None:
    sizes = sorted(arm.size for arm in arms if arm.rule == rule and arm.factor == 1.0)
    if not sizes:
        return None
    of_size = {size: arms[Arm(rule, size)] for size in sizes}
    ends = {size: [row.curve.end for row in rows] for size, rows in of_size.items()}
    compared = {size: compare(ends[size], ends[sizes[0]], tolerance) for size in sizes}
    critical, half = critical_batch(compared, tolerance), None
    if math.isfinite(critical.below):
        worse = int(critical.below)
        halves = [arms.get(Arm(rule, size, HALF)) for size in (int(critical.at_least), worse)]
        if halves[0] is not None and halves[1] is not None:
            half = compare([row.curve.end for row in halves[1]], [row.curve.end for row in halves[0]], tolerance)
        critical = replace(critical, cause=stopped_by([row.curve for row in of_size[worse]], half, tolerance))
    noise = sgd_noise_scale(point.lr, point.num_examples, point.size)
    shown = []
    for size, rows in of_size.items():
        g = sgd_noise_scale(rows[0].lr, point.num_examples, size)
        spread = stdev(ends[size]) if all(map(math.isfinite, ends[size])) else math.nan
        kept = g / noise if noise else math.nan
        shown.append(SizeFound(size, rows[0].lr, rows[0].updates, fmean(ends[size]), spread, kept, compared[size]))
    return RuleFound(rule, tuple(shown), critical, half)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


CAUSES = {
    "rate": "stopped by the learning rate, not by the batch",
    "batch": "stopped by the batch: it is worse at half the learning rate, too",
    "not sure": "it is not sure whether the batch or the learning rate stopped it",
    "none": "no size that was tried is worse",
}


def in_words(found: Sequence[PointFound], tolerance: float) -> list[str]:
    """A line for each checkpoint and rule: the critical batch, what stopped it, and B_simple beside it."""
    lines = []
    for each in found:
        simple = each.at.noise_scale
        beside = f"B_simple {simple:.0f}" if math.isfinite(simple) else "B_simple undefined, because |G|^2 is not above 0"
        for rule in each.rules:
            moved = abs(math.log(rule.sizes[0].loss / each.at.loss)) if min(rule.sizes[0].loss, each.at.loss) > 0 else math.inf
            if moved < math.log1p(tolerance):
                beside += "; the loss itself moves by less than the tolerance in a branch, so that only instability could show"
            lines.append(
                f"epoch {each.at.epoch:.3g}, lr {rule.rule} in B: critical batch {rule.critical.in_words()}; "
                f"{CAUSES[rule.critical.cause]}; {beside}"
            )
    return lines

"""What a recommendation rests on: speeds, learning rates, branches. Plain values, no decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from noisescale.measures.branches import RULES
from noisescale.plans.noise import NOISE_RULES
from noisescale.studies.branch_results import PointFound, RuleFound

__all__ = ["Measured", "RateTrial", "Rates", "Speed"]


@dataclass(frozen=True)
class Speed:
    """Examples per second of updates with `batch_size` examples: the median of several, the lowest and the highest."""

    batch_size: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class RateTrial:
    """Short trainings with one learning rate, annealed to 0 in `updates`: their losses at the end, one per seed; inf if it diverged."""

    lr: float
    updates: int
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean."""
        return fmean(self.losses)

    @property
    def spread(self) -> float:
        """The highest minus the lowest."""
        return max(self.losses) - min(self.losses)


@dataclass(frozen=True)
class Rates:
    """What a learning-rate range test has shown, and short trainings with some of its rates.

    Attributes:
        batch_size: B of its updates.
        suggestions: name -> learning rate.
        diverged_at: where it diverged; None if it did not.
        curve: (learning rate, smoothed loss), ascending.
        trials: short trainings, in the order of their rates.
    """

    batch_size: int
    suggestions: dict[str, float]
    diverged_at: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    trials: tuple[RateTrial, ...] = ()

    @property
    def chosen(self) -> float:
        """The smallest rate of the trials whose loss does not differ from the lowest by more than the seeds do.

        Without trials it is the middle suggestion, or the lower of the two in the middle.
        """
        finite = [each for each in self.trials if math.isfinite(each.loss)]
        if finite:
            best = min(finite, key=lambda each: each.loss)
            return next(each.lr for each in finite if each.loss <= best.loss + max(best.spread, each.spread))
        ordered = sorted(self.suggestions.values())
        return ordered[(len(ordered) - 1) // 2]


@dataclass(frozen=True)
class Measured:
    """Everything that was measured; what is empty or None was not.

    Attributes:
        batch_size, lr: those of the configuration, from which the measurements start.
        epochs: the length of the training that the recommendation is for.
        rule: which noise the optimizer has: sgd (lr ~ B) or adaptive (lr ~ sqrt(B)).
        devices: W.
        limit: the largest micro-batch that fits, in examples; None: no limit was found, or none was looked for.
        limit_was_measured: whether `limit` was found by trying, and not typed.
        tolerance: of the branches: the relative loss up to which nothing counts as lost.
    """

    batch_size: int
    lr: float
    epochs: float
    rule: str
    devices: int = 1
    limit: int | None = None
    limit_was_measured: bool = False
    speeds: tuple[Speed, ...] = ()
    rates: Rates | None = None
    branches: tuple[PointFound, ...] = ()
    tolerance: float = 0.2

    @property
    def scaling(self) -> str:
        """How the learning rate goes with the batch, a key of `RULES`: the rule whose branches hold up to the largest batch."""
        rules = [each.rule for each in self.telling[0].rules] if self.telling else []
        usual = "linear" if NOISE_RULES[self.rule] == RULES["linear"] else "sqrt"
        return max(rules, key=lambda rule: (min(each.critical.at_least for each in self.by_rule(rule)), rule == usual), default=usual)

    def by_rule(self, rule: str) -> list[RuleFound]:
        """What the branches of one rule have shown at each time at which they could show something."""
        return [each for point in self.telling for each in point.rules if each.rule == rule]

    @property
    def telling(self) -> list[PointFound]:
        """The times at which the branches of the smallest batch changed the loss by more than the tolerance.

        Where the loss hardly moves, as at the end of a decayed schedule, every batch ends at the same loss, and only instability can show.
        """
        return [point for point in self.branches if any(self._moves(point, each) for each in point.rules)]

    def _moves(self, point: PointFound, found: RuleFound) -> bool:
        start, end = point.at.loss, found.sizes[0].loss
        if not math.isfinite(end) or min(start, end) <= 0.0:
            return True
        return abs(math.log(end / start)) > math.log1p(self.tolerance)

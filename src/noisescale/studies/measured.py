"""What a recommendation rests on: speeds, learning rates, branches. Plain values, no decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from noisescale.measures.branches import RULES
from noisescale.plans.noise import NOISE_RULES
from noisescale.studies.branch_results import PointFound, RuleFound

__all__ = ["Measured", "PairCheck", "RateTrial", "Rates", "Speed"]


@dataclass(frozen=True)
class Speed:
    """Examples per second of updates with `batch_size` examples: the median of several, the lowest and the highest."""

    batch_size: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class RateTrial:
    """Short trainings with one learning rate and the whole schedule in `updates`: their losses at the end by seed, inf if it diverged."""

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
class PairCheck:
    """Short trainings from new weights with a batch size and a learning rate, on as many examples as the trials of learning rates had.

    Attributes:
        batch_size, lr: the pair.
        updates: of each training.
        losses: at the end, one per seed; inf if it diverged.
        against: those of the trial that the pair was derived from, on the same examples; empty if there was none.
    """

    batch_size: int
    lr: float
    updates: int
    losses: tuple[float, ...]
    against: tuple[float, ...] = ()

    @property
    def diverged(self) -> bool:
        return not all(map(math.isfinite, self.losses))

    @property
    def is_worse(self) -> bool:
        """Whether the loss is higher by more than the seeds of either differ, or a training diverged."""
        if self.diverged or not self.against:
            return self.diverged
        return fmean(self.losses) > fmean(self.against) + self._spread

    @property
    def is_open(self) -> bool:
        """Whether the seeds differ by more than a fifth of the loss, so that a loss that is not worse is not shown to be as good."""
        return bool(self.against) and not self.diverged and self._spread > 0.2 * abs(fmean(self.against))

    @property
    def _spread(self) -> float:
        return max(max(each) - min(each) for each in (self.losses, self.against))


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
        speeds, rates, branches: see `Speed`, `Rates` and `PointFound`.
        check: of the recommended pair from new weights; None: not made.
        cut_short: what there was no time for; empty if the budget was enough for everything that was planned.
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
    check: PairCheck | None = None
    cut_short: str = ""

    @property
    def usual(self) -> str:
        """The rule of the plan, a key of `RULES`: linear for SGD, sqrt for an adaptive optimizer."""
        return "linear" if NOISE_RULES[self.rule] == RULES["linear"] else "sqrt"

    @property
    def winner(self) -> str | None:
        """The rule that the branches tell from the other one; None if they do not, or if there is only one.

        A rule wins at a time at which it loses nothing at a batch size at which the other one is worse. The one that wins at some time, and
        loses at none, is taken. Two brackets that overlap say nothing, whichever of their ends is larger.
        """
        winners = set()
        for point in self.telling:
            by_name = {each.rule: each.critical for each in point.rules}
            winners |= {a for a in by_name for b in by_name if a != b and by_name[a].at_least >= by_name[b].below}
        return next(iter(winners)) if len(winners) == 1 else None

    @property
    def scaling(self) -> str:
        """How the learning rate goes with the batch, a key of `RULES`: the rule that has won, or else the rule of the plan."""
        return self.winner or self.usual

    @property
    def rule_is_open(self) -> bool:
        """Whether there are two candidates, between which the branches do not decide."""
        return self.usual != "linear" and self.winner is None

    @property
    def dual_rule(self) -> str | None:
        """The `rule` of a dual, a key of `NOISE_RULES`, if the branches decide it; None: that of the optimizer."""
        if self.winner is None:
            return None
        return next(name for name, exponent in NOISE_RULES.items() if exponent == RULES[self.winner])

    def by_rule(self, rule: str) -> list[RuleFound]:
        """What the branches of one rule have shown at each time at which they could show something."""
        return [each for point in self.telling for each in self.of_point(point, rule)]

    def of_point(self, point: PointFound, rule: str) -> list[RuleFound]:
        """What the branches of one rule have shown at one time: one or none, if the loss does not fall significantly in them."""
        return [each for each in point.rules if each.rule == rule and each.reference.gains]

    @property
    def telling(self) -> list[PointFound]:
        """The times at which the loss falls significantly in the branches of the smallest batch.

        Where it does not, as at the end of a decayed schedule, every batch ends at the same loss, and only instability can show.
        """
        return [point for point in self.branches if any(each.reference.gains for each in point.rules)]

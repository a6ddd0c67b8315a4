"""Warm-up in front of any schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from noisescale.errors import check_choice, check_number
from noisescale.schedules.schedule import Schedule, constant_until, shortly_before

__all__ = ["WarmedUp", "Warmup"]


@dataclass(frozen=True)
class Warmup:
    """w(t): the factor of the warm-up; 1 from `epochs` on.

    linear: w = start_factor + (1 - start_factor) t/epochs (Goyal et al. 1706.02677, section 2.2). constant: w = start_factor.

    Args:
        epochs: its length W, >= 0; 0 is no warm-up.
        start_factor: w(0), in (0, 1].
        shape: linear | constant.
        mode: overlap: w(t) s(t). The schedule's clock runs from the start, so milestones stay where they are and an open horizon
            ends with the training. shift: w(t) s(0) up to W, then s(t - W). The schedule starts when the warm-up ends, and an
            open horizon is the training minus W.
    """

    epochs: float
    start_factor: float = 1.0
    shape: str = "linear"
    mode: str = "overlap"

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, at_least=0, unit="epochs")
        check_number("start_factor", self.start_factor, above=0, at_most=1)
        check_choice("shape", self.shape, ("linear", "constant"))
        check_choice("mode", self.mode, ("overlap", "shift"))

    def __call__(self, epoch: float) -> float:
        if epoch >= self.epochs:
            return 1.0
        if self.shape == "constant":
            return self.start_factor
        return self.start_factor + (1.0 - self.start_factor) * epoch / self.epochs

    def constant_until(self, epoch: float) -> float:
        """See `Schedule.constant_until`."""
        if epoch >= self.epochs:
            return math.inf
        return self.epochs if self.shape == "constant" else epoch

    def before(self, schedule: Schedule, epochs: float) -> Schedule:
        """`schedule` over a training of `epochs`, with this warm-up before it.

        Raises:
            ConfigError: the mode is shift and the warm-up leaves no time for the schedule.
        """
        if self.epochs == 0:
            return schedule.with_horizon(epochs)
        if self.mode == "overlap":
            return WarmedUp(self, schedule.with_horizon(epochs))
        remedy = "with mode=shift the warm-up must end before the training does"
        check_number("epochs", self.epochs, at_least=0, below=epochs, unit="epochs", remedy=remedy)
        return WarmedUp(self, schedule.with_horizon(epochs - self.epochs))


@dataclass(frozen=True)
class WarmedUp(Schedule):
    """w(t) s(t) (mode overlap) or w(t) s(max(0, t - W)) (mode shift)."""

    warmup: Warmup
    schedule: Schedule

    def __call__(self, epoch: float) -> float:
        return math.prod(self.parts(epoch))

    def parts(self, epoch: float) -> tuple[float, float]:
        delay = self.warmup.epochs if self.warmup.mode == "shift" else 0.0
        warmup, rest = self.schedule.parts(max(0.0, epoch - delay))
        return self.warmup(epoch) * warmup, rest

    @property
    def monitors(self) -> frozenset[str]:
        return self.schedule.monitors

    def observed(self, epoch: float, values: Mapping[str, float]) -> Schedule:
        delay = self.warmup.epochs if self.warmup.mode == "shift" else 0.0
        return replace(self, schedule=self.schedule.observed(max(0.0, epoch - delay), values))

    def constant_until(self, epoch: float) -> float:
        delay = self.warmup.epochs if self.warmup.mode == "shift" else 0.0
        rest = constant_until(self.schedule, max(0.0, epoch - delay)) + delay
        return min(constant_until(self.warmup, epoch), rest if delay == 0.0 else shortly_before(rest))

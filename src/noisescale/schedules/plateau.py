"""A schedule that falls when a metric no longer improves: s(t) as a function of the clock and of what has been measured before it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property

from noisescale.errors import ConfigError, check_choice, check_count, check_number
from noisescale.schedules.schedule import Schedule

__all__ = ["Plateau", "Reading", "Stall", "check_monitor"]

Reading = tuple[float, float]
"""(the epoch from which on it is known, the value that was measured)."""


@dataclass(frozen=True)
class Stall:
    """When a metric has stalled: for more than `patience` readings in a row it was not better than the best reading before them.

    Better is below best (1 - threshold) for min, above best (1 + threshold) for max, as in torch's ReduceLROnPlateau. nan is never better.

    Args:
        mode: min | max.
        patience: readings that may fail to improve, >= 0.
        threshold: the relative improvement that counts, in [0, 1).
        cooldown: readings after a stall that do not count as failures, >= 0.
    """

    mode: str = "min"
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("min", "max"))
        check_count("patience", self.patience, at_least=0, unit="readings")
        check_number("threshold", self.threshold, at_least=0.0, below=1.0)
        check_count("cooldown", self.cooldown, at_least=0, unit="readings")

    def epochs(self, readings: Sequence[Reading]) -> list[float]:
        """The epochs of the readings that were the last of a stall, in order."""
        best, failed, cooling, found = math.inf if self.mode == "min" else -math.inf, 0, 0, []
        for epoch, value in readings:
            if self._is_better(value, best):
                best, failed = value, 0
            else:
                failed += 1
            if cooling:
                cooling, failed = cooling - 1, 0
            if failed > self.patience:
                cooling, failed = self.cooldown, 0
                found.append(epoch)
        return found

    def _is_better(self, value: float, best: float) -> bool:
        return value < best * (1.0 - self.threshold) if self.mode == "min" else value > best * (1.0 + self.threshold)


@dataclass(frozen=True)
class Plateau(Schedule):
    """s(t) = max(min_factor, factor^(number of stalls up to t)); torch's ReduceLROnPlateau, as a factor.

    A reading is taken at the end of each epoch that was validated, and changes the schedule from the next epoch on. Between two readings s
    is a function of the clock, so `batch=dual` can carry it: the batch then grows where the learning rate would have fallen.

    Args:
        monitor: the metric, such as val/loss.
        factor: what each stall multiplies s with, in (0, 1).
        mode, patience, threshold, cooldown: see `Stall`.
        min_factor: the lowest s, in [0, 1].
        history: the readings so far, see `observed`.

    Source: the practice of Krizhevsky et al. 2012, section 5 (divide by 10 when the validation error stops improving).
    """

    monitor: str = "val/loss"
    factor: float = 0.1
    mode: str = "min"
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_factor: float = 0.0
    _: KW_ONLY
    history: tuple[Reading, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_monitor(self.monitor)
        check_number("factor", self.factor, above=0.0, below=1.0)
        check_number("min_factor", self.min_factor, at_least=0.0, at_most=1.0)
        self._stalls  # noqa: B018 - checks the other arguments

    @cached_property
    def _stalls(self) -> list[float]:
        return Stall(self.mode, self.patience, self.threshold, self.cooldown).epochs(self.history)

    @property
    def monitors(self) -> frozenset[str]:
        return frozenset({self.monitor})

    def observed(self, epoch: float, values: Mapping[str, float]) -> Plateau:
        if self.monitor not in values:
            return self
        return replace(self, history=(*self.history, (epoch, values[self.monitor])))

    def __call__(self, epoch: float) -> float:
        return max(self.min_factor, self.factor ** bisect_right(self._stalls, epoch))

    def constant_until(self, epoch: float) -> float:
        passed = bisect_right(self._stalls, epoch)
        return self._stalls[passed] if passed < len(self._stalls) else math.inf


def check_monitor(monitor: object) -> None:
    """Raise `ConfigError` unless it can be the name of a metric."""
    if not isinstance(monitor, str) or not monitor:
        raise ConfigError("monitor", monitor, "must be the name of a metric", "for example val/loss")

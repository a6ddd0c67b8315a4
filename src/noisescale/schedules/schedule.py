"""The base class of all schedules, and what several of them share: open horizons, boundaries despite rounding, half a cosine."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noisescale.errors import ConfigError, check_number
from noisescale.schedules.promises import keeps_promise

__all__ = [
    "BOUNDARY_SLACK",
    "Schedule",
    "check_horizon",
    "completed",
    "constant_until",
    "half_cosine",
    "milestones_passed",
    "next_milestone",
    "require_horizon",
    "shortly_before",
    "warmup_and_rest",
]


class Schedule(ABC):
    """s(t): the factor of the learning rate at epoch t >= 0; a pure function."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The factor at `epoch` (a float, in epochs). Never negative."""

    def parts(self, epoch: float) -> tuple[float, float]:
        """(w, s): the warm-up and the rest; their product is the factor. A batch that carries the noise leaves w to the learning rate."""
        return 1.0, self(epoch)

    def constant_until(self, epoch: float) -> float:
        """A time T up to which the schedule does not change: both `parts` are the same for every t with `epoch` <= t < T.

        It may be earlier than the change, and it is `epoch` itself, or less, where nothing is known; it saves plans the evaluation of equal
        updates. Ask the function `constant_until`, which does not rely on it where a derived class has changed the schedule.
        """
        return epoch

    @property
    def monitors(self) -> frozenset[str]:
        """The names of what has to be measured during a training for the schedule to be known further than to the end of the epoch."""
        return frozenset()

    def observed(self, epoch: float, values: Mapping[str, float]) -> Schedule:
        """This schedule after the values of `monitors` were read: it may differ from `epoch` on, but not before."""
        return self

    def with_horizon(self, epochs: float) -> Schedule:
        """This schedule with an open horizon set to `epochs`; the schedule itself if its horizon is not open."""
        return self


def warmup_and_rest(schedule: Callable[[float], float], epoch: float) -> tuple[float, float]:
    """(w, s) of any function of the epoch; w = 1 for a function that is not a `Schedule`."""
    return schedule.parts(epoch) if isinstance(schedule, Schedule) else (1.0, schedule(epoch))


def constant_until(schedule: Callable[[float], float], epoch: float) -> float:
    """`Schedule.constant_until` of any function of the epoch, such as a warm-up; `epoch` where nothing is known about it."""
    known: Any = schedule
    kind: Any = type(schedule)
    if keeps_promise(kind, "constant_until", ("__call__", "parts")):
        return float(known.constant_until(epoch))
    return epoch


def check_horizon(key: str, epochs: float | None) -> None:
    """Raise `ConfigError` unless a horizon, in epochs, is positive or left open (None)."""
    if epochs is not None:
        check_number(key, epochs, above=0, unit="epochs", remedy="leave it at null for the whole training")


def require_horizon(key: str, horizon: float | None) -> float:
    """The horizon, in epochs; raises `ConfigError` if it is still open."""
    if horizon is None:
        raise ConfigError(key, "null", "the horizon is not set yet", "set it in epochs, or call `schedule.with_horizon(epochs)` first")
    return horizon


BOUNDARY_SLACK = 1.0 + 1e-12
"""A boundary counts as reached when epoch * BOUNDARY_SLACK reaches it: 3/10 is the third multiple of 0.1, although 0.3/0.1 < 3 in floats.

The margin stays below one example until 10^12 examples have been seen, so no update crosses a boundary early.
"""


def milestones_passed(milestones: Sequence[float], epoch: float) -> int:
    """The number of milestones (in epochs, increasing) that are <= `epoch`; one that is missed only by rounding counts."""
    return bisect_right(milestones, epoch * BOUNDARY_SLACK)


def next_milestone(milestones: Sequence[float], epoch: float) -> float:
    """A time up to which `milestones_passed` does not change after `epoch`; inf after the last milestone."""
    passed = milestones_passed(milestones, epoch)
    return shortly_before(milestones[passed]) if passed < len(milestones) else math.inf


def completed(epoch: float, length: float) -> int:
    """floor(epoch / length), for an epoch and a length that have rounding errors."""
    return math.floor(epoch * BOUNDARY_SLACK / length)


def shortly_before(boundary: float) -> float:
    """A time shortly before `boundary` at which neither `milestones_passed` nor `completed` counts it as reached."""
    return boundary * (1.0 - 3.0 * (BOUNDARY_SLACK - 1.0))


def half_cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1)."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0

"""The phases of a plan, for display: each stretch with a constant batch and learning rate; elsewhere, parts of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from noisescale.plans.plan import Stretch, Update
from noisescale.plans.survey import Landmarks

__all__ = ["Constants", "Phase", "phases_of"]

_PARTS = 10
"""If the learning rate or the batch changed all the time, the whole training would be shown in this many parts of equal length."""
_LONG_ENOUGH = 1 / 25
"""A time in which nothing changes is a phase of its own if it is at least this share of the training."""


@dataclass(frozen=True)
class Phase:
    """A part of a plan, from `start` to `end` in epochs: its first and last full update, and how many updates it has."""

    first: Update
    last: Update
    start: float
    end: float
    updates: int


class Constants:
    """Reads a plan, and finds the times in which neither the planned B nor the learning rate changes.

    A smaller window at the end of a pass counts with the updates before it. The times that are too short to be a phase are put together.

    Args:
        end: when the plan ends, in epochs.

    Attributes:
        found: (first update, whether it is a phase of its own) of each, in order; complete after `finish`.
    """

    def __init__(self, end: float) -> None:
        self.found: list[tuple[int, bool]] = []
        self._least = _LONG_ENOUGH * end
        self._end = end
        self._start: tuple[int, float] | None = None  # update and epoch
        self._last = 0, 0.0  # planned B and lr factor when something changed

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        planned_before, factor_before = self._last
        for step, _, _, _, _, epoch, size, planned, factor in chunk:
            if planned == planned_before and (factor == factor_before or size != planned):
                continue
            if self._start is None:
                self._start = step, epoch
            else:
                self._add(epoch)
                self._start = step, epoch
            planned_before, factor_before = planned, factor
        self._last = planned_before, factor_before

    def finish(self) -> None:
        """After the last stretch."""
        self._add(self._end)

    def _add(self, until: float) -> None:
        assert self._start is not None
        step, epoch = self._start
        long_enough = until - epoch >= self._least
        if long_enough or not self.found or self.found[-1][1]:
            self.found.append((step, long_enough))


def phases_of(constants: Constants, landmarks: Landmarks) -> list[Phase]:
    """The phases in order; every update belongs to exactly one."""
    starts = []
    for (start, alone), (stop, _) in pairwise([*constants.found, (landmarks.updates, True)]):
        starts += [start] if alone else _parts(landmarks, start, stop)
    phases = []
    for start, stop in pairwise([*starts, landmarks.updates]):
        first, last = landmarks.ends_of(start, stop)
        phases.append(Phase(first, last, landmarks.start_of(start), landmarks.start_of(stop), stop - start))
    return phases


def _parts(landmarks: Landmarks, start: int, stop: int) -> list[int]:
    """The first update of each part, where updates `start` to `stop` - 1 are cut into parts of equal length."""
    first, end = landmarks.start_of(start), landmarks.start_of(stop)
    count = max(1, round(_PARTS * (end - first) / landmarks.end))
    span = (end - first) / count
    starts = [start]
    for part in range(1, count):

        def reached(epoch: float, part: int = part) -> bool:
            return (epoch - first) / span >= part

        at = landmarks.first_where(reached, stop)
        if starts[-1] < at < stop:  # otherwise no update starts in the part before
            starts.append(at)
    return starts

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
        self._least, self._end = _LONG_ENOUGH * end, end
        self._planned, self._factor = 0, 0.0  # when something changed
        self._start: tuple[int, float] | None = None  # the update then, and its epoch

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        planned_before, factor_before, started, least = self._planned, self._factor, self._start, self._least
        for step, _, _, _, _, epoch, size, planned, factor in chunk:
            if planned == planned_before and (factor == factor_before or size != planned):
                continue
            if started is not None:
                self._add(started[0], epoch - started[1] >= least)
            started, planned_before, factor_before = (step, epoch), planned, factor
        self._planned, self._factor, self._start = planned_before, factor_before, started

    def finish(self) -> None:
        """After the last stretch."""
        assert self._start is not None
        self._add(self._start[0], self._end - self._start[1] >= self._least)

    def _add(self, step: int, alone: bool) -> None:
        """Add the time that starts at update `step`, which goes on if it and the time before are too short to be alone."""
        if alone or not self.found or self.found[-1][1]:
            self.found.append((step, alone))


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

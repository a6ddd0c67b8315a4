"""One reading of a plan, however long, in memory that does not grow with it: several readers see its stretches once, in order.

A plan of ten million updates is not kept. What is found in it can be looked up again, because the updates after any cursor can be computed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from noisescale.plans.plan import Plan, Stretch, Update

__all__ = ["Landmarks", "Progress", "Reader", "Readings", "survey"]

_CHUNK = 1024
"""Stretches that are read at once."""

Reader = Callable[[Sequence[Stretch]], None]
"""Is called with the next stretches of a plan."""

Progress = Callable[[float], None]
"""Is called with the share of the work that is done, 0 to 1."""


@dataclass(frozen=True)
class Landmarks:
    """Places in a plan from which its updates can be computed again.

    Args:
        plan: the plan, which has an end.
        updates: how many updates it has.
        end: when it ends, in epochs, see `Plan.end`.
        places: every so many of its stretches, among them the first.
    """

    plan: Plan
    updates: int
    end: float
    places: Sequence[Stretch]

    def start_of(self, step: int) -> float:
        """The epoch at which update `step` starts; at which the training ends, if there is no such update."""
        return self.end if step >= self.updates else self.update(step).epoch

    def update(self, step: int) -> Update:
        """Update `step`."""
        for stretch in self._stretches(bisect_right(self.places, step, key=lambda place: place.step) - 1):
            if step < stretch.step + stretch.updates:
                return self.plan.update_in(stretch, step - stretch.step)
        raise IndexError(step)

    def first_where(self, reached: Callable[[float], bool], stop: int) -> int:
        """The first update whose epoch has `reached` something, which does not change back; `stop` if it is not before that update."""
        for stretch in self._stretches(max(0, bisect_left(self.places, True, key=lambda place: reached(place.epoch)) - 1)):
            if stretch.step >= stop:
                break
            index = stretch.first_where(reached, self.plan.num_examples)
            if index < stretch.updates:
                return min(stop, stretch.step + index)
        return stop

    def ends_of(self, start: int, stop: int) -> tuple[Update, Update]:
        """The first and the last full update of those from `start` to `stop` - 1, or the first and the last if none is full."""
        first = next((self._clipped(each, start, stop)[0] for each in self._between(start, stop) if each.whole), None)
        if first is None:
            return self.update(start), self.update(stop - 1)
        block = bisect_right(self.places, stop - 1, key=lambda place: place.step) - 1
        while True:  # from the last block backwards
            low = max(start, self.places[block].step)
            whole = [each for each in self._between(low, stop) if each.whole]
            if whole:
                return self.update(first), self.update(self._clipped(whole[-1], low, stop)[1])
            block, stop = block - 1, low

    def _between(self, start: int, stop: int) -> Iterator[Stretch]:
        """The stretches that have any of the updates from `start` to `stop` - 1."""
        for stretch in self._stretches(bisect_right(self.places, start, key=lambda place: place.step) - 1):
            if stretch.step >= stop:
                return
            if stretch.step + stretch.updates > start:
                yield stretch

    @staticmethod
    def _clipped(stretch: Stretch, start: int, stop: int) -> tuple[int, int]:
        """The first and the last update of a stretch, as far as they are from `start` to `stop` - 1."""
        return max(start, stretch.step), min(stop, stretch.step + stretch.updates) - 1

    def _stretches(self, block: int) -> Iterator[Stretch]:
        return self.plan.stretches(self.places[block].cursor())


def survey(plan: Plan, readers: Sequence[Reader], progress: Progress | None = None) -> Landmarks:
    """Read a plan that has an end once: each of `readers` is called with all of its stretches, in order, some at a time."""
    stream, places = plan.stretches(), []
    while chunk := list(islice(stream, _CHUNK)):
        places.append(chunk[0])
        last = chunk[-1]
        for reader in readers:
            reader(chunk)
        if progress is not None:
            progress(plan.share_before(last))
    return Landmarks(plan, last.step + last.updates, plan.end_after(last), places)


class Readings:
    """Several readings, with one progress from 0 to 1 over all of them.

    Args:
        progress: what is called.
        count: how many readings there will be.
    """

    def __init__(self, progress: Progress | None, count: int) -> None:
        self._progress, self._count, self._done = progress, count, 0

    def of(self, plan: Plan, readers: Sequence[Reader]) -> Landmarks:
        """The next reading, see `survey`."""
        progress, count, done = self._progress, self._count, self._done
        found = survey(plan, readers, None if progress is None else lambda share: progress((done + share) / count))
        self._done += 1
        return found

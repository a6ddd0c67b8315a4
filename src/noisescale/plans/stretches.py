"""The updates of a plan in stretches of equal ones, so that a million equal updates cost as little as one."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from noisescale.plans.strategies import BatchStrategy, constant_choice_until
from noisescale.schedules import Schedule, constant_until

__all__ = ["Cursor", "Stretch", "Update", "stretches"]

_PAUSE = 63
"""Updates that pass, where nothing is constant, until it is asked again whether something is: asking can cost as much as an update."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position of a run between two updates.

    Args:
        step: updates done so far.
        position: index into the endless stream of passes: pass = position // N, place in its permutation = position % N.
        examples_seen: examples that were really used in an update; less than `position` only if examples were dropped.
        updates_in_epoch: updates done since the epoch began.
    """

    step: int = 0
    position: int = 0
    examples_seen: int = 0
    updates_in_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """One update of a plan.

    Args:
        start: the cursor before it; update k has start.step == k.
        epoch: the clock at its start, in epochs: position / N.
        effective_batch_size: B, examples over all micro-batches and devices.
        accumulate_grad_batches: k, micro-batches of each device.
        lr_factor: lr / lr0, the product of the schedule and the scaling with the batch.
        planned_batch_size: B before the end of the pass made it smaller.
    """

    start: Cursor
    epoch: float
    effective_batch_size: int
    accumulate_grad_batches: int
    lr_factor: float
    planned_batch_size: int


class Stretch(NamedTuple):
    """`updates` successive updates, all of which start in the same pass and have the same B and learning rate.

    Update i of them, 0 to count - 1, starts at `position` + i `effective_batch_size`. How an equal part of a plan is divided into stretches
    has no meaning: two stretches in succession may be equal.

    Args:
        step, position, examples_seen, updates_in_epoch: the `Cursor` before the first of them.
        updates: how many there are, at least 1.
        epoch, effective_batch_size, planned_batch_size, lr_factor: those of the first `Update`; all but `epoch` are those of each.
    """

    step: int
    position: int
    examples_seen: int
    updates_in_epoch: int
    updates: int
    epoch: float
    effective_batch_size: int
    planned_batch_size: int
    lr_factor: float

    @property
    def whole(self) -> bool:
        """Whether the end of a pass left B as it was planned."""
        return self.effective_batch_size == self.planned_batch_size

    def cursor(self, index: int = 0) -> Cursor:
        """The cursor before update `index` of the stretch."""
        examples = index * self.effective_batch_size
        return Cursor(self.step + index, self.position + examples, self.examples_seen + examples, self.updates_in_epoch + index)

    def first_where(self, reached: Callable[[float], bool], num_examples: int) -> int:
        """The index of the first update whose epoch has `reached` something, which does not change back; `updates` if there is none."""
        if self.updates == 1 or reached(self.epoch):
            return 0 if reached(self.epoch) else 1
        starts = range(self.position, self.position + self.updates * self.effective_batch_size, self.effective_batch_size)
        return bisect_left(starts, True, key=lambda position: reached(position / num_examples))


def stretches(
    schedule: Callable[[float], float],
    strategy: BatchStrategy,
    num_examples: int,
    start: Cursor,
    *,
    epochs: int | None,
    max_updates: int | None,
    max_updates_per_epoch: int | None,
    match: str,
) -> Iterator[Stretch]:
    """The updates of a `Plan` with these arguments from `start` on, in stretches: exactly those that `update_at` and `after` give.

    An update for which nothing is known to be constant is a stretch of one. The code is written for speed, because a plan may have ten
    million of them.
    """
    n, last, match_last = num_examples, strategy.last, strategy.match_last
    parts = schedule.parts if isinstance(schedule, Schedule) and type(schedule).parts is not Schedule.parts else None
    size_at, lr_factor = strategy.size_at, strategy.lr_factor
    usual = type(strategy).__call__ is BatchStrategy.__call__  # taken apart here, which saves a call
    end = math.inf if epochs is None else epochs * n
    most = math.inf if max_updates is None else max_updates
    most_of_epoch = math.inf if max_updates_per_epoch is None else max_updates_per_epoch
    step, position, seen, done = start.step, start.position, start.examples_seen, start.updates_in_epoch
    next_epoch = (position // n + 1) * n
    pause, known = 0, False
    planned, rate, epoch = 0, 0.0, 0.0
    make = tuple.__new__

    while position < end and step < most:
        if not known:
            epoch = position / n
            warmup, factor = (1.0, schedule(epoch)) if parts is None else parts(epoch)
            if usual:
                planned = size_at(epoch, factor, n)
                rate = warmup * lr_factor(epoch, factor, planned, n)
            else:
                planned, rate = strategy(epoch, factor, n, warmup)
        known = False
        size, lr, remaining, count = planned, rate, next_epoch - position, 1
        if last == "partial":
            if size > remaining:
                size = remaining
        elif last == "spread":
            size = math.ceil(remaining / math.ceil(remaining / size))
        if match_last and size != planned:
            lr *= strategy.resized(planned, size, n, match)

        if pause:
            pause -= 1
        else:
            until = min(constant_until(schedule, epoch), constant_choice_until(strategy, epoch))
            if until > epoch:
                count = _windows(last, remaining, size, planned)
                if step + count > most:
                    count = int(most) - step
                if done < most_of_epoch < done + count:
                    count = int(most_of_epoch) - done
                if until < math.inf:
                    count = min(count, int((until * n - position) / size) + 2)
                    while count > 1 and (position + (count - 1) * size) / n >= until:
                        count -= 1
            else:
                pause = _PAUSE
        yield make(Stretch, (step, position, seen, done, count, epoch, size, planned, lr))

        examples = count * size
        step, position, seen, done = step + count, position + examples, seen + examples, done + count
        if done == most_of_epoch:
            if position < next_epoch:
                position = next_epoch
        elif last == "drop" and position < next_epoch:
            epoch = position / n
            warmup, factor = (1.0, schedule(epoch)) if parts is None else parts(epoch)
            planned, rate = strategy(epoch, factor, n, warmup)
            if next_epoch - position < planned:
                position = next_epoch
            else:
                known = True
        if position >= next_epoch:
            done = 0
            next_epoch = (position // n + 1) * n


def _windows(last: str, remaining: int, size: int, planned: int) -> int:
    """How many windows of `size` follow each other from here on, as long as `planned` stays, where `remaining` examples are left of a pass.

    With drop the last of them may be followed by a jump to the next pass, and with carry it may reach into it.
    """
    if last == "carry":
        return -(-remaining // size)
    if last == "spread":
        windows = -(-remaining // planned)
        return remaining % windows or windows
    return max(1, remaining // size)

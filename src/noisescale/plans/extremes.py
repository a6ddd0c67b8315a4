"""What is notable about the batch sizes of a plan: the largest, the first above a bound, the smallest last window, the first cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeGuard

from noisescale.plans.duality import CyclicBatch, Dual
from noisescale.plans.noise import batch_noise
from noisescale.plans.plan import Plan, Stretch
from noisescale.plans.strategies import BatchStrategy

__all__ = ["Caps", "Cuts", "Sizes", "cap_of", "carries_by_batch"]

_CUT = 0.9
"""It is a cut if B grows by more than 1/_CUT and the counterpart's lr falls below _CUT of its value, from one full update to the next."""


class Sizes:
    """Reads a plan.

    Attributes:
        smallest, largest: of the planned batch sizes, in examples.
        above_tenth: the first update whose B is above N/10.
        worst: the smaller window at the end of a pass that has the most noise, relative to a full window; the first of them.
        spike: its noise, relative to that of a full window; 1 if there is no smaller window.
    """

    def __init__(self, plan: Plan) -> None:
        self._n, self._match = plan.num_examples, plan.match
        self._may_shrink = plan.strategy.last in ("partial", "spread")
        self.smallest, self.largest = plan.num_examples, 0
        self.above_tenth: Stretch | None = None
        self.worst: Stretch | None = None
        self.spike = 1.0

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        planned = [stretch.planned_batch_size for stretch in chunk]
        self.smallest, self.largest = min(self.smallest, min(planned)), max(self.largest, max(planned))
        if self.above_tenth is None:
            tenth = self._n // 10
            self.above_tenth = next((stretch for stretch in chunk if stretch.effective_batch_size > tenth), None)
        for stretch in chunk if self._may_shrink else ():
            if stretch.effective_batch_size < stretch.planned_batch_size < self._n:
                spike = self._noise(stretch.effective_batch_size) / self._noise(stretch.planned_batch_size)
                if self.worst is None or spike > self.spike:
                    self.worst, self.spike = stretch, spike

    def _noise(self, size: int) -> float:
        return batch_noise(self._match, self._n, size)


class Caps:
    """Reads a plan whose batch carries noise.

    Attributes:
        has_room: whether the batch can grow at all.
        at_cap, at_floor: the first update whose planned B has reached the largest size that it can have, and the smallest.
    """

    def __init__(self, plan: Plan) -> None:
        assert carries_by_batch(plan.strategy)
        step = plan.strategy.micro_batch_size or 1
        cap, _ = cap_of(plan.strategy, plan.num_examples)
        self._highest = cap // step * step
        self.has_room = self._highest > plan.strategy.size
        self._lowest = step if step < plan.strategy.size else 0
        self.at_cap: Stretch | None = None
        self.at_floor: Stretch | None = None

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        if self.at_cap is None:
            self.at_cap = next((stretch for stretch in chunk if stretch.planned_batch_size >= self._highest), None)
        if self.at_floor is None and self._lowest:
            self.at_floor = next((stretch for stretch in chunk if stretch.planned_batch_size <= self._lowest), None)


class Cuts:
    """Reads a plan, and compares it with its counterpart, in which the learning rate carries the noise.

    Attributes:
        first: the update after the first cut of the noise that the batch carries.
    """

    def __init__(self, plan: Plan, counterpart: Plan) -> None:
        self._n, self._other = plan.num_examples, counterpart
        self._last: Stretch | None = None
        self.first: Stretch | None = None

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        if self.first is not None:
            return
        last = self._last
        for stretch in chunk:
            if stretch.effective_batch_size != stretch.planned_batch_size:
                continue
            if last is not None and stretch.planned_batch_size * _CUT > last.planned_batch_size:
                before = last.cursor(last.updates - 1).position / self._n
                if self._is_cut(before, stretch.epoch):
                    self.first = stretch
                    return
            last = stretch
        self._last = last

    def _is_cut(self, start: float, end: float) -> bool:
        before, after = (self._other.choice_at(epoch).lr_factor for epoch in (start, end))
        return 0 < after < _CUT * before and _jumps(self._other.schedule, start, end)


def _jumps(level: Callable[[float], float], start: float, end: float) -> bool:
    """Whether `level` falls at a single point between two epochs instead of gradually."""
    points = [level(start + (end - start) * i / 8) for i in range(9)]
    return max(abs(a - b) for a, b in pairwise(points)) > 0.8 * abs(points[0] - points[-1])


def carries_by_batch(strategy: BatchStrategy) -> TypeGuard[Dual | CyclicBatch]:
    """Whether the batch carries at least part of the schedule's noise."""
    return isinstance(strategy, CyclicBatch) or (isinstance(strategy, Dual) and strategy.growth > 0)


def cap_of(strategy: Dual | CyclicBatch, n: int) -> tuple[int, str]:
    """The largest batch that a strategy can use on n examples, and the name of that limit."""
    if isinstance(strategy, Dual) and strategy.cap(n) < n:
        return strategy.cap(n), "N/10" if strategy.max_size is None else "batch.max_size"
    return (n - 1, "N - 1") if strategy.match == "exact" else (n, "N")

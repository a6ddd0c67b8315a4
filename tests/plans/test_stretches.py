"""Stretches of equal updates: they are the plan to the last bit, and where nothing changes they cost nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans import strategies as batching
from noisescale.plans.duality import CyclicBatch, Dual, counterpart
from noisescale.plans.plan import Cursor, Plan, Update
from noisescale.plans.strategies import LAST_WINDOW, BatchStrategy, Fixed, Full, constant_choice_until
from noisescale.schedules import Schedule, Warmup, constant_until, warmup_and_rest
from tests.helpers.plans import plans

many = settings(max_examples=80)


def one_by_one(plan: Plan, cursor: Cursor) -> Iterator[Update]:
    """The updates of a plan as it defines them: each from the cursor that the one before it leaves."""
    while not plan.finished(cursor):
        update = plan.update_at(cursor)
        yield update
        cursor = plan.after(update)


SQUARE = schedules.Cyclic(0.1, 0.2, wave="square")
CONSTANT_AT_TIMES: dict[str, Schedule] = {
    "constant": schedules.Constant(),
    "step": schedules.Step(0.1, 0.5),
    "a long step": schedules.Step(1.7, 0.5),
    "multistep": schedules.MultiStep([0.3, 1, 1.1, 2.5], 0.1),
    "polynomial": schedules.Polynomial(2, 1.3),
    "linear": schedules.Linear(1, 0.1, 0.7),
    "wsd": schedules.WSD(0.3, epochs=3),
    "wsd, all but the start": schedules.WSD(1 - 1e-7, "sqrt", 0.1, epochs=2),
    "one cycle": schedules.OneCycle(1.5),
    "square": SQUARE,
    "square, halved": schedules.Cyclic(0.1, mode="triangular2", wave="square"),
    "square, decaying": schedules.Cyclic(0.3, mode="exp_range", gamma=0.9, wave="square"),
    "constant warm-up": Warmup(0.55, 0.1, "constant").before(schedules.Step(0.7, 0.5), 3),
    "linear warm-up": Warmup(0.55, 0.1).before(schedules.Constant(), 3),
    "shifted": Warmup(1 / 3, 0.1, "constant", "shift").before(schedules.MultiStep([0.1, 1], 0.5), 3),
    "shifted far": Warmup(2.9, 0.1, "linear", "shift").before(schedules.WSD(0.9), 3),
    "cosine": schedules.Cosine(3),
}
AT_TIMES = pytest.mark.parametrize("name", CONSTANT_AT_TIMES)

STRATEGIES: dict[str, BatchStrategy] = {
    "fixed": Fixed(7),
    "full": Full(),
    "multistep": batching.MultiStep(3, [0.4, 1, 2.5], 3),
    "linear": batching.Linear(2, 40, 1.1),
    "square": CyclicBatch(5, 0.3, rule="sgd", wave="square"),
    "triangle": CyclicBatch(5, 0.3, rule="sgd"),
    "dual": Dual(6, rule="sgd"),
    "split": Dual(6, rule="adaptive", growth=0.5, match_last=False),
}


# -- they are the plan ---------------------------------------------------------------------------------------------------------


@many
@given(plan=plans(limited=True), data=st.data())
def test_any_plan_is_what_its_stretches_are(plan: Plan, data: st.DataObject) -> None:
    updates = list(one_by_one(plan, Cursor()))
    assert list(plan) == updates
    k = data.draw(st.integers(0, len(updates) - 1))
    assert list(plan.updates(updates[k].start)) == updates[k:]


@AT_TIMES
def test_a_plan_that_is_constant_at_times_is_exact(name: str) -> None:
    """The boundaries of a schedule are counted despite rounding, so that they are where a stretch could be too long by one update."""
    limits: list[dict[str, Any]] = [{}, {"max_updates_per_epoch": 5}, {"max_updates": 11}, {}]
    for strategy in STRATEGIES.values():
        for last, limit in zip(LAST_WINDOW, limits, strict=True):
            plan = Plan(CONSTANT_AT_TIMES[name], replace(strategy, last=last, match_last=last == "spread"), 70, 3, **limit)
            assert list(plan) == list(one_by_one(plan, Cursor())), plan
            other = counterpart(plan)
            assert other is None or list(other) == list(one_by_one(other, Cursor())), other


@many
@given(plan=plans(limited=True), data=st.data())
def test_the_sizes_are_those_of_the_updates(plan: Plan, data: st.DataObject) -> None:
    updates = list(plan)

    def shape(update: Update) -> tuple[Any, ...]:
        return update.start, update.epoch, update.effective_batch_size, update.accumulate_grad_batches, update.planned_batch_size

    found = [update for stretch in plan.sizes() for update in plan.updates_in(stretch)]
    assert [shape(update) for update in found] == [shape(update) for update in updates]
    assert plan.total_updates() == len(updates)
    start = updates[data.draw(st.integers(0, len(updates) - 1))].start
    epoch = plan.epoch_of(start)
    here = sum(stretch.updates for stretch in plan.sizes_of_epoch(epoch, start))
    assert here == len(list(plan.updates_of_epoch(epoch, start))) > 0


@many
@given(plan=plans(limited=True), data=st.data())
def test_an_update_of_a_stretch_is_found_by_its_index(plan: Plan, data: st.DataObject) -> None:
    stretches = list(plan.stretches())
    stretch = data.draw(st.sampled_from(stretches))
    updates = list(plan.updates_in(stretch))
    assert len(updates) == stretch.updates
    assert [plan.update_in(stretch, i) for i in range(stretch.updates)] == updates
    assert plan.update_in(stretch, -1) == updates[-1]
    assert [stretch.cursor(i) for i in range(stretch.updates)] == [update.start for update in updates]
    epoch = data.draw(st.sampled_from(list(plan))).epoch
    later = [i for i, update in enumerate(updates) if update.epoch >= epoch]
    assert stretch.first_where(lambda found: found >= epoch, plan.num_examples) == (later[0] if later else stretch.updates)


# -- what a schedule and a strategy promise ------------------------------------------------------------------------------------


@AT_TIMES
@settings(max_examples=40)
@given(epoch=st.floats(0, 4), share=st.floats(0, 1))
@example(epoch=0.0, share=1.0)
def test_a_schedule_is_constant_as_long_as_it_says(name: str, epoch: float, share: float) -> None:
    schedule = CONSTANT_AT_TIMES[name]
    until = constant_until(schedule, epoch)
    if until > epoch:
        last = math.nextafter(min(until, 5.0), 0.0)
        for t in (epoch, epoch + share * (last - epoch), last):
            if epoch <= t < until:
                assert warmup_and_rest(schedule, t) == warmup_and_rest(schedule, epoch)


@pytest.mark.parametrize("kind", STRATEGIES)
@settings(max_examples=40)
@given(epoch=st.floats(0, 4), share=st.floats(0, 1))
def test_a_strategy_depends_on_the_schedule_alone_as_long_as_it_says(kind: str, epoch: float, share: float) -> None:
    strategy = STRATEGIES[kind]
    until = constant_choice_until(strategy, epoch)
    if until > epoch:
        last = math.nextafter(min(until, 5.0), 0.0)
        for t in (epoch, epoch + share * (last - epoch), last):
            if epoch <= t < until:
                assert strategy(t, 0.3, 100) == strategy(epoch, 0.3, 100)


@pytest.mark.parametrize(
    ("schedule", "boundaries"),
    [(schedules.Step(0.1, 0.5), 29), (SQUARE, 19), (schedules.MultiStep([0.7, 2.1], 0.5), 2), (schedules.Constant(), 0)],
)
def test_the_promise_reaches_almost_to_the_next_change(schedule: Schedule, boundaries: int) -> None:
    """A promise that ended too early would cost time, which no other test would notice."""
    epoch, found = 0.0, 0
    while (until := constant_until(schedule, epoch)) < 2.95:
        before = schedule(math.nextafter(until, 0.0))
        assert schedule(until * (1 + 1e-11)) != before
        epoch, found = until * (1 + 1e-11), found + 1
    assert found == boundaries


@dataclass(frozen=True)
class Rising(Fixed):
    """A class of a user that keeps ours but for B."""

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return self.size + int(3 * epoch)


@dataclass(frozen=True)
class Slower(Dual):
    """A class of a user that keeps ours but for the learning rate."""

    def lr_factor(self, epoch: float, factor: float, size: int, num_examples: int) -> float:
        return super().lr_factor(epoch, factor, size, num_examples) / (1 + epoch)


@dataclass(frozen=True)
class Falling(schedules.Step):
    """A schedule of a user that keeps ours but for its value."""

    def __call__(self, epoch: float) -> float:
        return super().__call__(epoch) / (1 + epoch)


@dataclass(frozen=True)
class Climbing(schedules.Step):
    """A schedule of a user that keeps ours but for its warm-up."""

    def parts(self, epoch: float) -> tuple[float, float]:
        return min(1.0, epoch), self(epoch)


@dataclass(frozen=True)
class Endless(Warmup):
    """A warm-up of a user that keeps ours but for its value."""

    def __call__(self, epoch: float) -> float:
        return float(1 - 0.5 ** (1 + epoch))


@pytest.mark.parametrize(
    ("schedule", "strategy"),
    [
        (schedules.Constant(), Rising(4)),
        (schedules.Constant(), Slower(4, rule="sgd")),
        (Falling(0.5, 0.5), Fixed(4)),
        (Climbing(0.5, 0.5), Fixed(4)),
        (Warmup(0.1, 0.1).before(Falling(0.5, 0.5), 3), Fixed(4)),
        (Endless(0.1, 0.1).before(schedules.Constant(), 3), Fixed(4)),
        (lambda epoch: 1 / (1 + epoch), Fixed(4)),
    ],
    ids=["B", "lr", "schedule", "warm-up", "inside a warm-up", "a warm-up of a class", "a function"],
)
def test_what_we_promise_is_not_taken_for_a_class_that_changes_it(schedule: Any, strategy: BatchStrategy) -> None:
    """A class of a user that is derived from one of ours inherits its promises, and does not keep them."""
    plan = Plan(schedule, strategy, 100, 3)
    assert list(plan) == list(one_by_one(plan, Cursor()))
    assert plan.total_updates() == len(list(plan))
    other = counterpart(plan)
    assert other is not None
    assert list(other) == list(one_by_one(other, Cursor()))


def test_a_class_of_a_user_may_make_a_promise_of_its_own() -> None:
    @dataclass(frozen=True)
    class Late(Falling):
        def constant_until(self, epoch: float) -> float:
            return 17.0

    assert constant_until(Falling(1, 0.5), 0.25) == 0.25
    assert constant_until(Late(1, 0.5), 0.25) == 17.0


# -- what they cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "strategy", "most"),
    [
        (schedules.Constant(), Fixed(1, last="carry"), 20),
        (schedules.Constant(), Fixed(1), 20),
        (schedules.Constant(), Fixed(3, last="drop"), 20),
        (schedules.Constant(), Fixed(3, last="spread"), 40),
        (schedules.MultiStep([10, 15], 0.1), Dual(2, rule="sgd", last="carry"), 30),
        (schedules.Step(0.5, 0.9), Fixed(2, last="carry"), 300),
        (schedules.Constant(), batching.MultiStep(1, [5, 10], 2, last="carry"), 30),
        (Warmup(1, 0.1, "constant").before(schedules.Constant(), 20), Fixed(2, last="carry"), 30),
    ],
)
def test_a_constant_plan_of_millions_is_a_few_stretches(schedule: Schedule, strategy: BatchStrategy, most: int) -> None:
    plan = Plan(schedule.with_horizon(20), strategy, 1_000_000, 20)
    stretches = list(islice(plan.stretches(), 10_000))
    assert len(stretches) <= most
    total = sum(stretch.updates for stretch in stretches)
    assert total == plan.total_updates() > 2_000_000
    assert plan.after(plan.update_in(stretches[-1], -1)).position >= 20_000_000


def test_updates_are_counted_without_the_schedule_where_the_batch_does_not_follow_it() -> None:
    def never(epoch: float) -> float:
        raise AssertionError(epoch)

    assert Plan(never, Fixed(1, last="carry"), 1_000_000, 20).total_updates() == 20_000_000
    assert Plan(never, batching.MultiStep(1, [10], 2), 1_000_000, 20).total_updates() == 15_000_000

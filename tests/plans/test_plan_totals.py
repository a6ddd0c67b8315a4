"""The plan from any update on: resume, totals, limits."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from itertools import islice

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.errors import ConfigError
from noisescale.plans.plan import Cursor, Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, MultiStep
from noisescale.schedules import Constant
from tests.helpers.plans import passes, plans

many = settings(max_examples=150)


@many
@given(plan=plans(limited=True), data=st.data())
def test_from_any_update_on_the_plan_is_the_tail_of_the_whole(plan: Plan, data: st.DataObject) -> None:
    updates = list(plan)
    k = data.draw(st.integers(1, len(updates)))
    saved = asdict(plan.after(updates[k - 1]))  # as in a checkpoint
    assert list(plan.updates(Cursor(**saved))) == updates[k:]
    assert plan.finished(Cursor(**saved)) == (k == len(updates))


@many
@given(plan=plans(limited=True))
def test_totals_are_what_the_enumeration_counts(plan: Plan) -> None:
    updates = list(plan)
    assert plan.total_updates() == len(updates)
    assert [update for first, *_ in passes(plan) for update in plan.updates_of_epoch(plan.epoch_of(first.start), first.start)] == updates
    end = plan.after(updates[-1])
    assert list(plan.updates_of_epoch(plan.epoch_of(end), end)) == []


@many
@given(plan=plans(), data=st.data())
def test_the_rest_of_an_epoch_from_any_update_of_it(plan: Plan, data: st.DataObject) -> None:
    updates = data.draw(st.sampled_from(list(passes(plan))))
    first = data.draw(st.integers(0, len(updates) - 1))
    epoch = plan.epoch_of(updates[first].start)
    assert list(plan.updates_of_epoch(epoch, updates[first].start)) == list(updates[first:])
    assert list(plan.updates_of_epoch(epoch + 1, updates[first].start)) == []


@many
@given(plan=plans(limited=True), most=st.integers(1, 100))
def test_max_updates_is_a_prefix(plan: Plan, most: int) -> None:
    assert list(replace(plan, max_updates=most)) == list(replace(plan, max_updates=None))[:most]


@many
@given(plan=plans(), most=st.integers(1, 10))
@example(plan=Plan(Constant(), Fixed(3, last="carry"), 4, 4), most=2)  # the second window continues into the next pass
def test_max_updates_per_epoch_ends_each_epoch_early_and_goes_on_at_a_whole_one(plan: Plan, most: int) -> None:
    limited = replace(plan, max_updates_per_epoch=most)
    by_epoch = list(passes(limited))
    assert [limited.epoch_of(first.start) for first, *_ in by_epoch] == list(range(plan.epochs or 0))
    for updates in by_epoch:
        assert [update.start.updates_in_epoch for update in updates] == list(range(len(updates)))
        assert len(updates) <= most
        following = limited.after(updates[-1]).position
        end_of_pass = (limited.epoch_of(updates[0].start) + 1) * plan.num_examples
        last_window = updates[-1].start.position + updates[-1].effective_batch_size
        assert following == max(end_of_pass, last_window)
    assert by_epoch[0] == next(passes(plan))[:most]


def test_a_plan_without_end_goes_on_and_has_no_total() -> None:
    plan = Plan(Constant(), Fixed(3), 6, epochs=None)
    assert [update.epoch for update in islice(plan, 5)] == [0, 0.5, 1, 1.5, 2]
    with pytest.raises(ConfigError, match=r"^epochs=null: the plan has no end; give epochs or max_updates$"):
        plan.total_updates()
    assert replace(plan, max_updates=77).total_updates() == 77


SMITH = MultiStep(128, [60, 120, 160], 5, max_size=5120)


@pytest.mark.parametrize(
    ("strategy", "kept", "dropped"),
    [
        pytest.param(Fixed(128), 78_200, 78_000, id="original"),
        pytest.param(SMITH, 29_240, 29_040, id="increasing batch"),
        pytest.param(replace(SMITH, size=640), 6_500, 6_300, id="larger initial rate"),
        pytest.param(replace(SMITH, size=3200), 2_360, 2_160, id="larger momentum"),
    ],
)
def test_updates_of_smith_et_al_2017(strategy: BatchStrategy, kept: int, dropped: int) -> None:
    """1711.00489, section 5.1: CIFAR-10, 200 epochs, with the last batch of each pass kept or dropped."""
    for last, total in (("partial", kept), ("spread", kept), ("drop", dropped)):
        assert Plan(Constant(), replace(strategy, last=last), 50_000, 200).total_updates() == total


def work_per_update(plan: Plan) -> float:
    """Calls of functions, in Python and in C, per update of an enumeration."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        updates = sum(stretch.updates for stretch in plan.stretches())
    finally:
        sys.setprofile(before)
    return calls / updates


def test_a_long_plan_is_enumerated_quickly() -> None:
    """A plan is read before every training, and each time plan.py runs.

    The work is counted and not timed, so that neither the processor nor its other tasks matter. Clock, schedule, warm-up, strategy and
    update take about ten calls, which are a microsecond, whether the plan is short or long.
    """
    plan = Plan(schedules.Warmup(5, 0.1).before(schedules.Cosine(), 200), Fixed(128), 50_000, 200, 2, 32)
    assert plan.total_updates() == 78_200
    short, long = (work_per_update(replace(plan, max_updates=most)) for most in (1000, 10_000))
    assert long <= 13
    assert long == pytest.approx(short, rel=0.02)  # in a short plan the work before the first update is divided by fewer updates

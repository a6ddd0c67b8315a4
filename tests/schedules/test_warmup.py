"""Warm-up in front of any schedule: its shapes, its modes, and what of a schedule counts as warm-up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.errors import ConfigError
from noisescale.schedules import Constant, Cosine, MultiStep, Schedule, Step, Warmup
from tests.helpers.schedules import SCHEDULES, close, factors, many


@many
@given(length=st.floats(0.01, 50.0), start=factors, part=st.floats(0.0, 1.0, exclude_max=True))
def test_a_linear_warmup_is_the_straight_line_to_one_and_a_constant_one_jumps(length: float, start: float, part: float) -> None:
    linear, constant = Warmup(length, start), Warmup(length, start, "constant")
    assert linear(part * length) == close(start * (1 - part) + part)
    assert constant(math.nextafter(length, 0.0)) == start
    assert linear(math.nextafter(length, 0.0)) == close(1.0)
    assert [warmup(t) for warmup in (linear, constant) for t in (length, 2 * length)] == [1.0] * 4


@pytest.mark.parametrize("shape", ["linear", "constant"])
@many
@given(schedule=SCHEDULES, length=st.floats(0.1, 9.0), t=st.floats(0.0, 12.0))
def test_overlap_multiplies_and_shift_waits(shape: str, schedule: Schedule, length: float, t: float) -> None:
    overlap, shift = (Warmup(length, 0.1, shape, mode) for mode in ("overlap", "shift"))
    assert overlap.before(schedule, 10)(t) == overlap(t) * schedule.with_horizon(10)(t)
    late = schedule.with_horizon(10 - length)
    assert shift.before(schedule, 10)(t) == (late(t - length) if t >= length else shift(t) * late(0.0))


def test_overlap_keeps_the_milestones_and_shift_delays_them() -> None:
    cut = MultiStep([10], 0.1)
    overlap, shift = (Warmup(5, 0.2, mode=mode).before(cut, 20) for mode in ("overlap", "shift"))
    assert [overlap(t) for t in (0, 5, 9.9, 10)] == close([0.2, 1, 1, 0.1])
    assert [shift(t) for t in (0, 5, 10, 14.9, 15)] == close([0.2, 1, 1, 1, 0.1])


def test_both_modes_end_an_open_horizon_with_the_training() -> None:
    for mode, halfway in (("overlap", 10), ("shift", 12.5)):
        schedule = Warmup(5, 0.2, mode=mode).before(Cosine(), 20)
        assert (schedule(halfway), schedule(20)) == close((0.5, 0.0))


@pytest.mark.parametrize("mode", ["overlap", "shift"])
def test_no_warmup_is_the_schedule_itself(mode: str) -> None:
    schedule = Step(1, 0.5)
    assert Warmup(0, 0.1, mode=mode).before(schedule, 10) is schedule
    assert Warmup(0, 0.1, mode=mode).before(Cosine(), 10) == Cosine(10)


@pytest.mark.parametrize("length", [30, 30.5, 100])
def test_a_shift_that_leaves_no_time_is_refused(length: float) -> None:
    line = f"epochs={length}: must be a finite number in [0, 30), in epochs; with mode=shift the warm-up must end before the training does"
    with pytest.raises(ConfigError) as refusal:
        Warmup(length, mode="shift").before(Constant(), 30)
    assert str(refusal.value) == line
    assert Warmup(length, mode="overlap").before(Constant(), 30)(0.0) == 1.0


def test_the_climb_of_onecycle_is_a_warm_up() -> None:
    """A batch that carries the noise leaves the climb to the learning rate, also with a warm-up before it."""
    one = schedules.OneCycle(epochs=10)
    assert one.parts(1) == (one(1), 1.0)
    assert one.parts(5) == (1.0, one(5))
    both = schedules.Warmup(2, 0.5).before(one, 10)
    assert both.parts(1) == (0.75 * one(1), 1.0)
    assert schedules.warmup_and_rest(lambda t: 1 / (1 + t), 1) == (1.0, 0.5)

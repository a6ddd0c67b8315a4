"""What all schedules share: boundaries despite rounding, factors in [0, 1], open horizons."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.schedules import (
    WSD,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    Warmup,
)
from tests.helpers.schedules import SCHEDULES, factors, many, some

# -- boundaries ---------------------------------------------------------------------------------------------------------------


@many
@given(
    tenths=st.integers(1, 500),
    cuts=st.integers(1, 60),
    num_examples=st.integers(1, 10**6).map(lambda n: 10 * n),
    warmup=st.integers(0, 50),
)
def test_a_boundary_that_is_no_binary_fraction_comes_neither_late_nor_early(tenths: int, cuts: int, num_examples: int, warmup: int) -> None:
    """At t = position/N, 0.3/0.1 is 2.9999999999999996. The cut must happen then nevertheless, and not one example earlier."""
    boundary = cuts * tenths * num_examples // 10  # the exact position, in examples
    length, at, before = tenths / 10, boundary / num_examples, (boundary - 1) / num_examples
    milestones = [m * tenths / 10 for m in range(1, cuts + 2)]
    for cut in (Step(length, 0.5), MultiStep(milestones, 0.5)):
        assert (cut(before), cut(at)) == (0.5 ** (cuts - 1), 0.5**cuts)
        late = Warmup(warmup / 10, mode="shift").before(cut, 1e9)
        shift = warmup * num_examples // 10
        assert (late((boundary + shift - 1) / num_examples), late((boundary + shift) / num_examples)) == (
            0.5 ** (cuts - 1),
            0.5**cuts,
        )
    restarts = CosineRestarts(length)
    assert restarts(at) == pytest.approx(1.0, abs=1e-12)
    assert restarts(before) == pytest.approx((1 - math.cos(math.pi / (tenths * num_examples / 10))) / 2, abs=1e-9)


@some
@given(
    tenths=st.integers(1, 100),
    t_mult=st.integers(2, 4),
    restarts=st.integers(1, 6),
    num_examples=st.integers(1, 10**5).map(lambda n: 10 * n),
)
def test_growing_cycles_restart_at_the_sums_of_their_lengths(tenths: int, t_mult: int, restarts: int, num_examples: int) -> None:
    boundary = sum(tenths * t_mult**i for i in range(restarts)) * num_examples // 10
    last_cycle = tenths * t_mult ** (restarts - 1) * num_examples / 10  # in examples
    schedule = CosineRestarts(tenths / 10, t_mult)
    assert schedule(boundary / num_examples) == pytest.approx(1.0, abs=1e-12)
    assert schedule((boundary - 1) / num_examples) == pytest.approx((1 - math.cos(math.pi / last_cycle)) / 2, abs=1e-9)


# -- the range of the factor --------------------------------------------------------------------------------------------------

WARMUPS = st.builds(Warmup, st.floats(0.0, 9.0), factors, st.sampled_from(["linear", "constant"]), st.sampled_from(["overlap", "shift"]))


@settings(max_examples=1000)
@given(schedule=SCHEDULES, warmup=WARMUPS, t=st.floats(0.0, 1e9) | st.integers(0, 10**6).map(lambda examples: examples / 100))
def test_a_factor_is_a_float_in_zero_to_one(schedule: Schedule, warmup: Warmup, t: float) -> None:
    """All of these schedules start at their maximum, 1. No schedule may ever be negative."""
    factor = warmup.before(schedule, 10.0)(t)
    assert isinstance(factor, float)
    assert 0.0 <= factor <= 1.0 + 1e-12


@pytest.mark.parametrize("t", [3.4, 6.8, 7.8, 13.6])
def test_a_cycle_with_a_base_of_zero_does_not_go_below_it_by_rounding(t: float) -> None:
    """t is a whole number of cycles, and floor(t / 0.2) * 0.2 is larger than t by a rounding error."""
    assert 0.0 <= Cyclic(0.1, 0.1, base_lr=0.0)(t) < 1e-12


# -- horizons -----------------------------------------------------------------------------------------------------------------

OPEN = [
    (Polynomial(2.0), "total_iters"),
    (Linear(1.0, 0.0), "total_iters"),
    (Cosine(), "T_max"),
    (OneCycle(), "epochs"),
    (WSD(0.2), "epochs"),
]
CLOSED: list[Schedule] = [
    Constant(),
    Step(1, 0.5),
    MultiStep([1], 0.5),
    Inverse(1.0),
    Exponential(gamma=0.9),
    CosineRestarts(1),
    Cyclic(1),
]


@pytest.mark.parametrize(("schedule", "key"), OPEN)
def test_an_open_horizon_is_filled_in_once(schedule: Schedule, key: str) -> None:
    filled = schedule.with_horizon(30)
    assert getattr(filled, key) == 30
    assert filled.with_horizon(7) is filled
    assert getattr(schedule, key) is None


@pytest.mark.parametrize(("schedule", "key"), OPEN)
def test_an_open_horizon_cannot_be_called(schedule: Schedule, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}=null: the horizon is not set yet; set it in epochs"):
        schedule(0.0)


@pytest.mark.parametrize("schedule", CLOSED)
def test_a_schedule_without_a_horizon_stays_itself(schedule: Schedule) -> None:
    assert schedule.with_horizon(30) is schedule

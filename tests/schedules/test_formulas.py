"""Schedules, compared with their formulas and with examples worked by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale import schedules
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
    Schedule,
    Step,
)
from tests.helpers.schedules import close, many

epochs = st.floats(0.0, 300.0)


@many
@given(gamma=st.floats(0.0, 10.0), t=epochs)
def test_inverse_is_one_over_one_plus_gamma_t(gamma: float, t: float) -> None:
    assert Inverse(gamma)(t) * (1 + gamma * t) == close(1.0)


@many
@given(rate=st.floats(0.0, 1.0), t=epochs)
def test_the_rate_of_an_exponential_is_minus_the_logarithm_of_its_gamma(rate: float, t: float) -> None:
    assert Exponential(rate=rate)(t) == close(math.e ** (-rate * t))
    assert Exponential(rate=rate)(t) == close(Exponential(gamma=math.exp(-rate))(t))


WSD_FALL = {"linear": lambda p: p, "cosine": lambda p: math.sin(math.pi * p / 2) ** 2, "sqrt": lambda p: p**0.5}


@pytest.mark.parametrize("shape", WSD_FALL)
@many
@given(fraction=st.floats(0.01, 1.0), end=st.floats(0.0, 1.0), length=st.floats(0.5, 300.0), clock=st.floats(0.0, 1.5))
def test_wsd_is_one_then_falls_over_the_last_fraction(shape: str, fraction: float, end: float, length: float, clock: float) -> None:
    t, stable = clock * length, length * (1 - fraction)
    fall = 0.0 if t <= stable else 1.0 if t >= length else WSD_FALL[shape]((t - stable) / (length - stable))
    # sqrt has an infinite slope where the decay starts: there an error of 1e-16 in the clock is an error of 1e-8 in the factor.
    assert WSD(fraction, shape, end, length)(t) == pytest.approx(1 - (1 - end) * fall, rel=1e-9, abs=1e-6 if shape == "sqrt" else 1e-9)


def test_constant_is_one() -> None:
    assert [Constant()(t) for t in (0, 0.5, 1e9)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        pytest.param(Step(1, 0.65), {0: 1, 0.99: 1, 1: 0.65, 2: 0.4225, 3.5: 0.274625}, id="StepLR gamma .65"),
        pytest.param(
            MultiStep([10, 15, 25, 30], 0.1),
            {0: 1, 9.999: 1, 10: 0.1, 14.999: 0.1, 15: 0.01, 25: 1e-3, 29.999: 1e-3, 30: 1e-4, 1000: 1e-4},
            id="MultiStepLR 10, 15, 25, 30: .05 to .000005",
        ),
        pytest.param(Exponential(gamma=0.98), {0: 1, 1: 0.98, 0.5: math.sqrt(0.98), 100: 0.1326195558945}, id="ExponentialLR .98"),
        pytest.param(
            Cosine(150),
            {0: 1, 50: 0.75, 75: 0.5, 100: 0.25, 150: 0, 200: 0.25, 225: 0.5, 300: 1, 450: 0, 600: 1},
            id="CosineAnnealingLR T_max 150: periodic",
        ),
        pytest.param(Cyclic(2), {0: 0.2, 1: 0.6, 2: 1, 3: 0.6, 4: 0.2, 6: 1}, id="the bounds of a cycle are 1 : 5"),
        pytest.param(Linear(2.0, 0.0, 4), {0: 2, 1: 1.5, 2: 1, 4: 0, 9: 0}, id="a factor above 1, which torch does not have"),
        pytest.param(CosineRestarts(1, 1.5), {0: 1, 0.5: 0.5, 1: 1, 1.75: 0.5, 2.5: 1, 4.75: 1}, id="a T_mult that is not whole"),
        pytest.param(OneCycle(10, 0.3, "cos", 25, 1e4), {0: 0.04, 3: 1, 10: 4e-6, 11: 4e-6}, id="1cycle turns at pct_start T"),
    ],
)
def test_worked_examples(schedule: Schedule, expected: dict[float, float]) -> None:
    assert {t: schedule(t) for t in expected} == close(expected)


@many
@given(t_max=st.floats(0.1, 200.0), t=epochs, periods=st.integers(1, 5), low=st.floats(0.0, 1.0))
def test_cosine_is_periodic_and_symmetric_about_t_max(t_max: float, t: float, periods: int, low: float) -> None:
    schedule = Cosine(t_max, low)
    # The cosine of an angle of n periods has an error of n roundings.
    assert schedule(t + 2 * periods * t_max) == pytest.approx(schedule(t), abs=1e-9)
    assert schedule(abs(2 * t_max - t)) == pytest.approx(schedule(t), abs=1e-9)


def test_a_quarter_cosine() -> None:
    """1 and 0 at the ends, sqrt(1/2) in the middle, mean 2/pi; it can have a floor, and rises again like the half cosine."""
    quarter = schedules.Cosine(T_max=20, shape="quarter")
    assert [quarter(t) for t in (0, 10, 20, 30, 40)] == pytest.approx([1, math.sqrt(0.5), 0, math.sqrt(0.5), 1], abs=1e-15)
    assert sum(quarter((i + 0.5) / 100) for i in range(2000)) / 2000 == pytest.approx(2 / math.pi, rel=1e-6)
    assert schedules.Cosine(T_max=20, eta_min=0.02, lr=0.1, shape="quarter")(10) == pytest.approx(0.2 + 0.8 * math.sqrt(0.5))


def test_a_square_wave() -> None:
    """First the learning rate of a triangle's top, then that of its bottom; a boundary that rounding just misses counts as reached."""
    wave = schedules.Cyclic(step_size_up=0.1, step_size_down=0.2, base_lr=0.001, max_lr=0.005, wave="square")
    assert [wave(t) for t in (0, 0.05, 0.1, 0.299, 0.3, 0.39)] == [1, 1, 0.2, 0.2, 1, 1]
    assert [wave(3 * k / 10) for k in range(1, 200)] == [1.0] * 199
    assert [wave((3 * k + 1) / 10) for k in range(1, 200)] == [0.2] * 199
    halved = schedules.Cyclic(step_size_up=1, mode="triangular2", wave="square")
    assert [halved(t) for t in (0, 1, 2, 3, 4)] == pytest.approx([1, 0.2, 0.6, 0.2, 0.4])

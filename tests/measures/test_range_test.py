"""The arithmetic of the range test: ramps, smoothing, suggestions, the end at divergence."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from noisescale.errors import ConfigError
from noisescale.measures.range_test import RangeOptions, has_diverged, smoothed, suggest


@given(some.floats(1e-8, 1e-2), some.floats(1.5, 1e6), some.integers(20, 500))
def test_the_ramps_go_from_the_lowest_to_the_highest(lowest: float, ratio: float, updates: int) -> None:
    highest = lowest * ratio
    for ramp in ("exponential", "linear"):
        options = RangeOptions(lowest, highest, updates, ramp)
        rates = [options.rate(k) for k in range(updates)]
        assert (rates[0], rates[-1]) == pytest.approx((lowest, highest))
        steps = [b / a if ramp == "exponential" else b - a for a, b in pairwise(rates)]
        assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)


def test_smoothing_keeps_a_constant_and_a_line_and_does_not_lag() -> None:
    assert smoothed([2.0] * 30, 3) == pytest.approx([2.0] * 30)
    line = [0.1 * k for k in range(60)]
    assert smoothed(line, 3)[10:50] == pytest.approx(line[10:50])
    draw = random.Random(0)
    noisy = smoothed([draw.gauss(0, 1) for _ in range(4000)], 4)
    spread = math.sqrt(sum(x * x for x in noisy) / len(noisy))
    assert spread == pytest.approx(1 / math.sqrt(2 * math.sqrt(math.pi) * 4), rel=0.1)  # of a Gaussian window of width 4


def sigmoid(log_rate: float, at: float, top: float = 2.3, bottom: float = 0.3, steep: float = 3.0) -> float:
    """A loss that falls around `at`, fastest there in log10 lr, and rises again two decades later."""
    fall = bottom + (top - bottom) / (1 + math.exp(steep * (log_rate - at)))
    return fall + math.exp(4 * (log_rate - at - 2.5))


@pytest.mark.parametrize("at", [-4.0, -2.5, -1.0])
@pytest.mark.parametrize("ramp", ["exponential", "linear"])
def test_the_steepest_slope_is_taken_in_log_lr_whatever_the_ramp(at: float, ramp: str) -> None:
    options = RangeOptions(10 ** (at - 2), 10 ** (at + (3 if ramp == "exponential" else 1)), 1000 if ramp == "exponential" else 8000, ramp)
    rates = [options.rate(k) for k in range(options.updates)]
    found = suggest(rates, [sigmoid(math.log10(rate), at) for rate in rates], 3)
    assert math.log10(found.steepest) == pytest.approx(at, abs=0.02)
    lowest = min(rates, key=lambda rate: sigmoid(math.log10(rate), at))
    assert found.minimum == pytest.approx(lowest, rel=0.05)
    assert found.tenth == found.minimum / 10
    assert math.log10(found.valley) == pytest.approx((math.log10(rates[0]) + math.log10(lowest)) / 2, abs=0.05)
    low, high = found.cyclic
    assert low < found.steepest < high < found.minimum
    fall = 2.3 - sigmoid(math.log10(lowest), at)
    assert sigmoid(math.log10(high), at) == pytest.approx(2.3 - 0.9 * fall, abs=0.05)


def test_nothing_is_suggested_where_the_loss_says_nothing() -> None:
    rates = [RangeOptions().rate(k) for k in range(200)]
    for losses in ([1.0] * 200, [1.0 + 0.01 * k for k in range(200)], [math.nan] * 200, [1.0] * 5 + [math.inf] * 195):
        found = suggest(rates, losses, 4)
        assert all(map(math.isnan, (found.steepest, found.valley, found.tenth, *found.cyclic)))
        assert found.fall == 0.0
    draw = random.Random(1)
    for width in (2, 4, 8):
        chance = [draw.uniform(1, 3) for _ in range(200)]
        assert math.isnan(suggest(rates, chance, width).steepest), "there is nothing but noise"
    falling = [2.0 - 0.005 * k for k in range(150)] + [math.nan] * 50
    assert math.isfinite(suggest(rates, falling, 4).steepest)


def test_the_test_ends_at_divergence() -> None:
    assert has_diverged([1.0, math.nan], 4)
    assert has_diverged([1.0, math.inf], 4)
    assert not has_diverged([1.0, 100.0], 4), "a single batch says little"
    falling = [2.0 - 0.1 * k for k in range(15)]
    assert not has_diverged(falling, 4)
    assert has_diverged([*falling, *[20.0] * 5], 4)
    assert not has_diverged([*falling, 20.0], 40)
    assert not has_diverged([2.0] * 10 + [0.1] * 10 + [1.0] * 5, 4), "it is not above the first value"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lowest": 0}, "lowest=0: must be a finite number in"),
        ({"lowest": 1.0, "highest": 0.5}, "highest=0.5: must be above lowest=1"),
        ({"highest": float("inf")}, "highest=inf"),
        ({"updates": 19}, "updates=19: must be a whole number of updates, 20 to 1000000"),
        ({"ramp": "log"}, "ramp=log: must be one of exponential, linear"),
        ({"smoothing": 0}, "smoothing=0: must be a finite number in"),
        ({"diverged_at": 1}, "diverged_at=1: must be a finite number in"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        RangeOptions(**options)  # type: ignore[arg-type]

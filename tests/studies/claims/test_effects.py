"""Estimates over seeds against scipy's own tests, and against data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from noisescale.studies.claims.effects import mean_of, optimum, ratio, slope, welch

NUMBERS = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=3, max_size=8).filter(lambda found: np.std(found) > 1e-3)


@given(NUMBERS, st.floats(0.001, 0.4))
def test_the_interval_of_a_mean_is_that_of_scipy(values: list[float], alpha: float) -> None:
    low, high = mean_of(values).interval(alpha)
    expected = stats.ttest_1samp(values, 0).confidence_interval(1 - 2 * alpha)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@given(NUMBERS, st.floats(0.1, 50))
def test_an_interval_inside_the_margin_is_tost(values: list[float], margin: float) -> None:
    effect = mean_of(values)
    low, high = effect.interval(0.05)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert max(effect.p_above(-margin), effect.p_below(margin)) == pytest.approx(max(above, below), rel=1e-6, abs=1e-12)
    if abs(max(above, below) - 0.05) > 1e-9:
        assert (-margin < low and high < margin) == (max(above, below) < 0.05)


def test_pairing_removes_what_the_seeds_have_in_common() -> None:
    first, second = [1.0, 5.0, 9.0, 13.0], [0.9, 4.95, 8.85, 12.9]
    paired = mean_of([a - b for a, b in zip(first, second, strict=True)])
    expected = stats.ttest_rel(first, second).confidence_interval(0.9)
    assert paired.interval(0.05) == pytest.approx((expected.low, expected.high))
    low, high = welch(first, second).interval(0.05)
    unpaired = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.9)
    assert (low, high) == pytest.approx((unpaired.low, unpaired.high))
    assert paired.interval(0.05)[0] > 0 > low


def test_a_ratio_is_a_geometric_mean() -> None:
    effect = ratio([2.0, 8.0], [1.0, 1.0])
    assert effect.shown == pytest.approx(4)
    low, high = effect.interval(0.05)
    assert low * high == pytest.approx(16)
    assert effect.p_above(0) == 0


def test_equal_arms_have_an_interval_without_width() -> None:
    assert mean_of([0.0, 0.0, 0.0]).interval(0.05) == (0, 0)
    assert ratio([3.0, 4.0], [3.0, 4.0]).interval(0.05) == (1, 1)


def test_one_seed_says_nothing() -> None:
    effect = mean_of([0.3])
    assert effect.interval(0.05) == (-math.inf, math.inf)
    assert effect.p_above(0) == effect.p_below(0) == 1


def test_a_slope_is_the_exponent() -> None:
    x = [1.0, 2.0, 4.0, 16.0]
    effect = slope(x, [[3 * at**1.5, 5 * at**0.5] for at in x])
    assert effect.value == pytest.approx(1)
    assert effect.error == pytest.approx(0.5)


@pytest.mark.parametrize("peak", [3.0, 8.0, 21.0])
def test_an_optimum_between_two_points_is_found(peak: float) -> None:
    curve = {x: 0.9 - 0.01 * (math.log(x) - math.log(peak)) ** 2 for x in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)}
    assert optimum(curve) == pytest.approx(peak)


def test_an_optimum_at_an_end_is_not_known() -> None:
    assert math.isnan(optimum({1.0: 3.0, 2.0: 2.0, 4.0: 1.0}))
    assert math.isnan(optimum({1.0: 1.0, 2.0: 2.0, 4.0: 3.0}))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_what_n_seeds_can_see_is_seen_with_the_power_that_it_says(n: int) -> None:
    """An effect that is so far above 0 is shown to be above 0 in about 80 % of simulated studies."""
    exact = stats.nct.sf(stats.t.ppf(0.95, n - 1), n - 1, stats.t.ppf(0.95, n - 1) + stats.t.ppf(0.8, n - 1))
    assert exact == pytest.approx(0.8, abs=0.01)
    draw = np.random.default_rng(n)
    seen = (stats.t.ppf(0.95, n - 1) + stats.t.ppf(0.8, n - 1)) / math.sqrt(n)  # of a spread of 1
    studies = [mean_of((seen + draw.standard_normal(n)).tolist()) for _ in range(4000)]
    assert np.mean([study.interval(0.05)[0] > 0 for study in studies]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([study.detectable(0.05) ** 2 for study in studies]) == pytest.approx(seen**2, rel=0.1)
    assert ratio([2.0, 4.2], [1.0, 2.0]).detectable(0.05) > 1
    assert math.isnan(mean_of([1.0]).detectable(0.05))

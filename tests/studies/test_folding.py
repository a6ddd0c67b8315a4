"""Several seeds as one: the mean is that of all of them, or there is none."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.studies.folding import Curve, fold, spread

ys = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=5)
xs = st.lists(st.floats(0, 100), min_size=2, max_size=12, unique=True).map(sorted)


@settings(max_examples=40)
@given(ys)
def test_curves_with_the_same_x_are_folded_point_by_point(columns: list[list[float]]) -> None:
    band = fold([([0, 1, 2, 3], y) for y in columns])
    assert band is not None
    assert band.x == [0, 1, 2, 3]
    for i, values in enumerate(zip(*columns, strict=True)):
        assert band.mean[i] == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert (band.low[i], band.high[i]) == (min(values), max(values))


@settings(max_examples=40)
@given(xs, xs, st.floats(-10, 10), st.floats(-10, 10))
def test_lines_stay_lines_and_end_with_the_shortest(one: list[float], other: list[float], slope: float, more: float) -> None:
    curves: list[Curve] = [(one, [slope * x for x in one]), (other, [slope * x + more for x in other])]
    band = fold(curves)
    start, end = max(one[0], other[0]), min(one[-1], other[-1])
    if start > end:
        assert band is None
        return
    assert band is not None
    assert (band.x[0], band.x[-1]) == (start, end)
    assert band.mean == pytest.approx([slope * x + more / 2 for x in band.x], abs=1e-6)


def test_there_is_no_mean_of_nothing() -> None:
    assert fold([]) is None
    assert fold([([], []), ([1], [1])]) is None
    assert spread([]) is None


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert str(spread([0.98, 0.99, 1.0])) == "0.9900 +- 0.0100"
    assert str(spread([0.5])) == "0.5000"
    assert str(spread([0.001, 0.002])) == "0.0015 +- 0.00071"
    assert str(spread([12345.6, 12345.6])) == "1.23e+04 +- 0"
    found = spread([1.0, 2.0, 4.0])
    assert found is not None
    assert (found.n, found.std) == (3, statistics.stdev([1, 2, 4]))

"""The gradient noise scale from plain numbers: unbiased, with an interval that covers."""

from __future__ import annotations

import math
import random
from itertools import permutations
from statistics import fmean, median, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.measures.gradients import (
    NoiseAverage,
    NoiseEstimate,
    Piece,
    RecentNoise,
    Sums,
    batch_efficiency,
    estimate,
    student_quantile,
    sums_of,
)

stats = pytest.importorskip("scipy.stats")  # which scikit-learn brings

GRADIENTS = [(1.0, 0.5), (-0.3, 2.0), (0.7, -1.1), (2.5, 0.4), (0.1, 0.9)]
"""Of N = 5 examples, two parameters each."""


def mean(vectors: list[tuple[float, ...]], weights: list[float]) -> list[float]:
    total = sum(weights)
    return [sum(w * vector[i] for vector, w in zip(vectors, weights, strict=True)) / total for i in range(2)]


def square(vector: list[float]) -> float:
    return sum(x * x for x in vector)


def exact() -> tuple[float, float]:
    """|G_N|^2, and tr(Sigma) with N - 1."""
    of_all = mean(list(GRADIENTS), [1.0] * 5)
    return square(of_all), sum(square([a - b for a, b in zip(g, of_all, strict=True)]) for g in GRADIENTS) / 4


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (3, 2), (1, 1, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("equal_weights", [False, True])
def test_the_mean_over_all_orders_is_exact(sizes: tuple[int, ...], equal_weights: bool) -> None:
    """Without replacement: tr(Sigma) as it is, |G|^2 less tr(Sigma)/N, whatever the sizes of the pieces and their weights."""
    found = []
    for order in permutations(GRADIENTS):
        pieces, gradients, weights, start = [], [], [], 0
        for n in sizes:
            gradient = mean(list(order[start : start + n]), [1.0] * n)
            weights.append(1.0 if equal_weights else float(n))
            pieces.append(Piece(weights[-1], n, square(gradient)))
            gradients.append(tuple(gradient))
            start += n
        result = estimate(sums_of(pieces), square(mean(gradients, weights)))
        assert result is not None
        found.append(result)
    squared, trace = exact()
    assert fmean(each.grad_cov_trace for each in found) == pytest.approx(trace, rel=1e-12)
    assert fmean(each.grad_sq_norm for each in found) == pytest.approx(squared - trace / 5, rel=1e-12)
    if not equal_weights:
        assert {each.size for each in found} == {sum(sizes)}


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), st.floats(0, 9)), min_size=2, max_size=6), st.integers(1, 5))
def test_the_sums_of_two_devices_add_up(rows: list[tuple[float, float, float]], cut: int) -> None:
    pieces = [Piece(*row) for row in rows]
    both = [a + b for a, b in zip(sums_of(pieces[:cut]), sums_of(pieces[cut:]), strict=True)]
    assert both == pytest.approx(sums_of(pieces), rel=1e-12)


def test_one_piece_and_numbers_that_are_not_finite_give_no_estimate() -> None:
    piece = Piece(4, 4, 1.0)
    assert estimate(sums_of([piece]), 1.0) is None
    assert estimate(Sums(), 0.0) is None
    assert estimate(sums_of([piece, Piece(4, 4, math.inf)]), 1.0) is None
    assert estimate(sums_of([piece, piece]), math.nan) is None


# -- averages -----------------------------------------------------------------------------------------------------------------


def average_of(rows: list[tuple[float, float]], decay: float) -> NoiseAverage:
    average = NoiseAverage(decay)
    for squared, trace in rows:
        average = average.with_estimate(NoiseEstimate(squared, trace, 8))
    return average


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 9)), min_size=1, max_size=12), st.sampled_from([0.0, 0.5, 0.9]))
def test_each_mean_has_the_weights_that_it_says(rows: list[tuple[float, float]], decay: float) -> None:
    found, ages = average_of(rows, decay), range(len(rows) - 1, -1, -1)
    weights = [decay**age for age in ages]
    for value, column in ((found.square, 0), (found.trace, 1)):
        expected = sum(w * row[column] for w, row in zip(weights, rows, strict=True)) / sum(weights)
        assert value == pytest.approx(expected, abs=1e-12)
    deviations = sum(w * (row[0] - found.square) * (row[1] - found.trace) for w, row in zip(weights, rows, strict=True))
    assert found.covariance == pytest.approx(deviations, abs=1e-11)
    assert found.measurements == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))


def test_a_square_that_is_not_positive_is_shown_and_its_ratio_is_undefined() -> None:
    found = average_of([(-0.1, 3.0)], 0.9)
    assert found.square == -0.1
    assert math.isnan(found.noise_scale)
    assert math.isnan(batch_efficiency(32, found.noise_scale))
    assert math.isnan(NoiseAverage(0.9).noise_scale)


def test_the_ratio_is_that_of_the_means() -> None:
    assert average_of([(1.0, 8.0), (3.0, 8.0)], 0.0).noise_scale == pytest.approx(8 / 3)
    assert average_of([(1.0, 8.0), (-0.5, 8.0)], 0.99).noise_scale == pytest.approx(8 / (0.49 / 1.99), rel=1e-9)


def test_an_interval_covers_the_ratio_as_often_as_it_says() -> None:
    draw = random.Random(3)
    for decay, squared in ((0.999, 1.0), (0.8, 1.0), (0.999, 0.2)):
        hits = []
        for _ in range(400):
            noise = [draw.gauss(0, 1) for _ in range(12)]
            rows = [(squared + 0.5 * e + draw.gauss(0, 0.5), 20 + 4 * e + draw.gauss(0, 2)) for e in noise]
            low, high = average_of(rows, decay).interval(0.9)
            hits.append(low <= 20 / squared <= high)
        assert fmean(hits) == pytest.approx(0.9, abs=3.5 * math.sqrt(0.9 * 0.1 / 400))


def test_an_interval_is_open_where_the_data_leave_it_open() -> None:
    unknown = (-math.inf, math.inf)
    assert average_of([(1.0, 8.0), (1.1, 8.1)], 0.9).interval() == unknown  # two measurements
    rows = [(0.5, 8.0), (-0.6, 9.0), (0.9, 8.5), (-0.4, 8.2), (0.3, 8.8)]
    low, high = average_of(rows, 0.99).interval()  # |G|^2 may be 0
    assert 0 < low < average_of(rows, 0.99).noise_scale < high == math.inf
    assert average_of([(a, b - 8.5) for a, b in rows], 0.99).interval() == unknown
    low, high = average_of([(1.0, 8.0)] * 9, 0.9).interval()
    assert (low, high) == pytest.approx((8, 8))


def test_an_interval_gets_shorter_with_the_measurements() -> None:
    draw = random.Random(1)
    rows = [(1 + draw.gauss(0, 0.2), 20 + draw.gauss(0, 2)) for _ in range(100)]
    lengths = [high - low for low, high in (average_of(rows[:n], 0.9999).interval() for n in (5, 20, 100))]
    assert lengths[0] > lengths[1] > lengths[2]
    ratios = [b / a for a, b in rows]
    assert lengths[2] == pytest.approx(2 * 1.98 * stdev(ratios) / 10, rel=0.2)


# -- averages of a training ----------------------------------------------------------------------------------------------------


def draws(rows: list[tuple[float, float]], seed: int, size: int = 32, dimensions: int = 20) -> list[NoiseEstimate]:
    """Estimates around (|G|^2, tr(Sigma)), as two pieces of an update give them if Sigma has so many equal eigenvalues."""
    draw, found = random.Random(seed), []
    for squared, trace in rows:
        now = trace * sum(draw.gauss(0, 1) ** 2 for _ in range(dimensions)) / dimensions
        of_mean = sum((draw.gauss(0, math.sqrt(trace / size)) + math.sqrt(squared)) ** 2 for _ in range(dimensions)) / dimensions
        found.append(NoiseEstimate(of_mean - now / size, now, size))
    return found


def recent_of(found: list[NoiseEstimate], decay: float = 0.9) -> RecentNoise:
    recent = RecentNoise(NoiseAverage(decay))
    for each in found:
        recent = recent.with_estimate(each)
    return recent


def test_it_forgets_a_start_whose_gradients_were_a_thousand_times_as_large() -> None:
    """B_simple is 40 at the start and 400 later, where |G|^2 is a 10^5-th of what it was."""
    rows = [(1.0, 40.0)] * 20 + [(1e-5, 4e-3)] * 100
    trainings = [draws(rows, seed, size=128, dimensions=100) for seed in range(30)]
    assert median(recent_of(found).noise_scale for found in trainings) == pytest.approx(400, rel=0.1)
    kept = NoiseAverage(0.9)
    for each in trainings[0][:50]:
        kept = kept.with_estimate(each)
    assert kept.noise_scale < 60  # the averages as they are


@given(st.floats(1e-6, 1e6), st.integers(0, 99))
def test_the_unit_of_the_loss_does_not_matter(unit: float, seed: int) -> None:
    rows = [(0.9**i, 50 * 0.9**i) for i in range(12)]
    found = draws(rows, seed)
    scaled = [NoiseEstimate(each.grad_sq_norm * unit, each.grad_cov_trace * unit, each.size) for each in found]
    plain, other = recent_of(found), recent_of(scaled)
    assert other.trace == pytest.approx(plain.trace * unit)
    assert other.square == pytest.approx(plain.square * unit)
    assert other.interval() == pytest.approx(plain.interval())


def test_dividing_by_what_was_before_brings_no_bias() -> None:
    """|G|^2 / s over tr(Sigma) / s, averaged over many trainings in which both fall by a third from one measurement to the next."""
    rows = [(0.7**i, 100 * 0.7**i) for i in range(15)]
    averages = [recent_of(draws(rows, seed)).average for seed in range(3000)]
    assert fmean(each.square for each in averages) / fmean(each.trace for each in averages) == pytest.approx(1 / 100, rel=0.05)


def test_a_measurement_without_noise_before_any_other_is_left_out() -> None:
    first = RecentNoise(NoiseAverage(0.9)).with_estimate(NoiseEstimate(1.0, 0.0, 8.0))
    assert first.average.weights == 0.0
    assert first.with_estimate(NoiseEstimate(1.0, 8.0, 8.0)).noise_scale == 8.0


@pytest.mark.parametrize("freedom", [2, 3, 5, 10, 40, 1000])
@pytest.mark.parametrize("probability", [0.025, 0.3, 0.95, 0.975])
def test_students_quantile(freedom: float, probability: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def test_the_efficiency_is_one_half_at_the_noise_scale() -> None:
    assert [batch_efficiency(b, 100.0) for b in (100, 300)] == [0.5, 0.25]


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan, "0.9"])
def test_a_decay_is_below_one(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"must be a finite number in \[0, 1\)"):
        NoiseAverage(decay)
    with pytest.raises(ConfigError, match=r"must be a finite number in \(0, 1\)"):
        NoiseAverage(0.9).interval(1.0)

"""Batch strategies: the batch size at every epoch, its rounding and its caps, the scaling of the learning rate, and every refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.plans.strategies import LAST_WINDOW, BatchStrategy, Fixed, Full, Linear, MultiStep, realisable
from tests.helpers.refusals import refusal_of

many = settings(max_examples=300)

SIZE, MAX_SIZE, MICRO, N = "size", "max_size", "micro_batch_size", 50_000


def sizes(strategy: BatchStrategy, clock: list[float], num_examples: int = N) -> list[int]:
    return [strategy.size_at(t, 1.0, num_examples) for t in clock]


# -- sizes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "clock", "expected"),
    [
        pytest.param(Fixed(128), [0, 0.5, 1e6], [128] * 3, id="fixed"),
        pytest.param(Full(), [0, 0.5, 1e6], [N] * 3, id="full"),
        pytest.param(
            MultiStep(128, [60, 120, 160], 5, max_size=5120),
            [0, 59.999, 60, 119.999, 120, 159.999, 160, 1e6],
            [128, 128, 640, 640, 3200, 3200, 5120, 5120],
            id="Smith et al. 2017",
        ),
        pytest.param(MultiStep(20_000, [1, 2], 5), [0, 1, 2], [20_000, N, N], id="without a cap the cap is N"),
        pytest.param(MultiStep(10, [1, 2, 3], 1.26), [0, 1, 2, 3], [10, 13, 16, 20], id="12.6, 15.88, 20.004 rounded"),
        pytest.param(MultiStep(7, [0.3], 1), [0, 1], [7, 7], id="factor 1"),
        pytest.param(MultiStep(32, [1, 2], 1.6, micro_batch_size=32), [0, 1, 2], [32, 64, 96], id="51.2, 81.92 in multiples of 32"),
        pytest.param(MultiStep(64, [1], 1000, micro_batch_size=64), [1], [49_984], id="the largest multiple of 64 in N"),
        pytest.param(Linear(32, 512, 10), [0, 1, 5, 10, 99], [32, 80, 272, 512, 512], id="ramp"),
        pytest.param(Linear(512, 32, 10), [0, 1, 5, 10, 99], [512, 464, 272, 32, 32], id="ramp down"),
        pytest.param(Linear(10, 13, 1), [0.16, 0.17, 0.49, 0.51, 0.83, 0.84], [10, 11, 11, 12, 12, 13], id="rounded to the nearest"),
        pytest.param(Linear(32, 96, 1, micro_batch_size=32), [0.2, 0.3, 0.7, 0.8, 1], [32, 64, 64, 96, 96], id="ramp of multiples"),
    ],
)
def test_sizes(strategy: BatchStrategy, clock: list[float], expected: list[int]) -> None:
    assert sizes(strategy, clock) == expected


@st.composite
def growing(draw: st.DrawFn) -> tuple[MultiStep | Linear, int]:
    """A strategy that can be carried out on N examples, and N."""
    micro = draw(st.none() | st.integers(1, 40))
    step = micro or 1
    n = draw(st.integers(step, 5000))
    multiples = st.integers(1, n // step).map(lambda m: m * step)
    size = draw(multiples)
    if draw(st.booleans()):
        return Linear(size, draw(multiples), draw(st.floats(0.1, 20.0)), micro_batch_size=micro), n
    milestones = sorted(draw(st.sets(st.integers(1, 200).map(lambda tenths: tenths / 10), max_size=6)))
    cap = draw(st.none() | multiples.map(lambda m: max(m, size)))
    return MultiStep(size, milestones, draw(st.floats(1.0, 7.0)), cap, micro_batch_size=micro), n


def exact_size(strategy: MultiStep | Linear, epoch: float) -> Fraction:
    """B before rounding and capping."""
    if isinstance(strategy, Linear):
        progress = min(Fraction(epoch) / Fraction(strategy.epochs), Fraction(1))
        return strategy.size + (strategy.max_size - strategy.size) * progress
    return strategy.size * Fraction(strategy.factor) ** len([m for m in strategy.milestones if epoch >= m])


@many
@given(case=growing(), epoch=st.floats(0.0, 30.0))
def test_a_size_is_the_nearest_realisable_one(case: tuple[MultiStep | Linear, int], epoch: float) -> None:
    strategy, n = case
    strategy.check(n)
    step, size = strategy.micro_batch_size or 1, strategy.size_at(epoch, 1.0, n)
    cap = strategy.max_size if strategy.max_size is not None and isinstance(strategy, MultiStep) else n
    assert 1 <= size <= cap
    assert size % step == 0
    largest = Fraction(cap - cap % step)  # the cap need not be a multiple if it is N
    wanted = exact_size(strategy, epoch)
    assert abs(size - min([wanted, largest])) <= Fraction(step, 2) + Fraction(1, 10**6)


@many
@given(
    size=st.floats(0.0, 200.0) | st.sampled_from([0.5, 1.5, 1e300, math.inf]),
    at_most=st.integers(1, 60),
    multiple=st.none() | st.integers(1, 90),
)
def test_realisable_is_the_nearest_of_all_that_are(size: float, at_most: int, multiple: int | None) -> None:
    """If no multiple fits, `at_most` is the only realisable size."""
    step = multiple or 1
    sizes = range(step, at_most + 1, step) if step <= at_most else [at_most]
    found = realisable(size, at_most, multiple)
    assert found in sizes
    wanted = min(size, 1e6)
    assert abs(found - wanted) == min(abs(other - wanted) for other in sizes)


@many
@given(case=growing(), clock=st.lists(st.floats(0.0, 30.0), min_size=2).map(sorted))
def test_sizes_are_monotone(case: tuple[MultiStep | Linear, int], clock: list[float]) -> None:
    strategy, n = case
    grows = strategy.max_size is None or strategy.max_size >= strategy.size
    found = sizes(strategy, clock, n)
    assert found == sorted(found, reverse=not grows)


# -- the rate -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "power"), [("none", 0.0), ("linear", 1.0), ("sqrt", 0.5)])
@many
@given(size=st.integers(1, 5000), reference=st.integers(1, 5000), factor=st.floats(0.0, 2.0))
def test_the_rate_is_the_schedule_times_the_batch_over_its_reference_to_a_power(
    rule: str, power: float, size: int, reference: int, factor: float
) -> None:
    choice = Fixed(size, lr_rule=rule, reference_size=reference)(0.0, factor, 5000)
    assert choice.size == size
    assert choice.lr_factor == pytest.approx(factor * (size / reference) ** power, rel=1e-12)


def test_the_rate_follows_the_size_that_holds_at_the_clock() -> None:
    strategy = MultiStep(128, [60], 5, lr_rule="linear", reference_size=256)
    before, after = strategy(59, 0.1, N), strategy(60, 0.1, N)
    assert (before.size, after.size) == (128, 640)
    assert (before.lr_factor, after.lr_factor) == pytest.approx((0.05, 0.25), rel=1e-12)


@many
@given(n=st.integers(2, 5000), data=st.data())
def test_a_window_made_smaller_is_resized_to_the_same_g(n: int, data: st.DataObject) -> None:
    planned = data.draw(st.integers(2, n))
    size = data.draw(st.integers(1, planned - 1))
    factor = Fixed(planned).resized(planned, size, n)
    assert factor == pytest.approx(float((Fraction(n, planned) - 1) / (Fraction(n, size) - 1)), rel=1e-14)
    assert 0.0 <= factor < 1.0


def test_who_moves_the_rate() -> None:
    assert not Fixed(4).moves_rate
    assert not Fixed(4, reference_size=8).moves_rate
    assert Fixed(4, lr_rule="sqrt", reference_size=8).moves_rate
    assert Fixed(4, match_last=True).moves_rate


@pytest.mark.parametrize("strategy", [Fixed(128), Full(), MultiStep(128, [1], 5), Linear(1, 9, 1)])
def test_without_a_reference_the_rate_is_the_schedules(strategy: BatchStrategy) -> None:
    assert [strategy(t, 0.3, N).lr_factor for t in (0, 1, 2)] == [0.3, 0.3, 0.3]


# -- refusals -----------------------------------------------------------------------------------------------------------------

COUNT = "must be a whole number of examples, at least 1"
NOT_COUNTS = [0, -128, 0.5, 32.0, True, "32", None, math.nan]
MAKERS: dict[str, tuple[Callable[..., BatchStrategy], str]] = {
    "Fixed size": (Fixed, SIZE),
    "MultiStep size": (partial(MultiStep, milestones=[1], factor=5), SIZE),
    "Linear size": (partial(Linear, max_size=9, epochs=1), SIZE),
    "Linear max_size": (partial(Linear, 9, epochs=1), MAX_SIZE),
    "Fixed reference_size": (partial(Fixed, 1), "reference_size"),
    "Full micro_batch_size": (Full, MICRO),
}
OPTIONAL = ("reference_size", MICRO)


@pytest.mark.parametrize("value", NOT_COUNTS, ids=repr)
@pytest.mark.parametrize("name", MAKERS)
def test_a_size_is_a_whole_positive_number(name: str, value: Any) -> None:
    make, key = MAKERS[name]
    if value is None and key in OPTIONAL:
        assert getattr(make(**{key: None}), key) is None
    else:
        assert refusal_of(lambda: make(**{key: value})) == f"{key}={value}: {COUNT}"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Fixed(1, last="keep"), "last=keep: must be one of carry, partial, drop, spread"),
        (lambda: Fixed(1, match_last=3), "match_last=3: must be true or false"),  # type: ignore[arg-type]
        (lambda: Full(match_last="yes"), "match_last=yes: must be true or false"),  # type: ignore[arg-type]
        (lambda: Full(lr_rule="cubic", reference_size=1), "lr_rule=cubic: must be one of none, linear, sqrt"),
        (
            lambda: Fixed(1, lr_rule="linear"),
            "lr_rule=linear: needs a reference_size, the batch that lr is quoted for; for example reference_size=128",
        ),
        (
            lambda: Linear(1, 2, 3, lr_rule="sqrt"),
            "lr_rule=sqrt: needs a reference_size, the batch that lr is quoted for; for example reference_size=128",
        ),
        (
            lambda: MultiStep(1, [15, 10], 5),
            "milestones=[15, 10]: must be strictly increasing, in epochs; for example [10, 15]",
        ),
        (lambda: MultiStep(1, [10, 10], 5), "milestones=[10, 10]: must be strictly increasing, in epochs; for example [10]"),
        (lambda: MultiStep(1, 10, 5), "milestones=10: must be a list of epochs; for example milestones=[10,20]"),  # type: ignore[arg-type]
        (lambda: MultiStep(1, [0, 1], 5), "milestones=0: must be a finite number in (0, inf), in epochs; given: [0, 1]"),
        (lambda: MultiStep(1, [1], 0.5), "factor=0.5: must be a finite number in [1, inf)"),
        (lambda: MultiStep(128, [1], 5, max_size=127), "max_size=127: must be a whole number of examples, at least 128"),
        (lambda: Linear(1, 2, 0), "epochs=0: must be a finite number in (0, inf), in epochs"),
    ],
)
def test_an_option_that_cannot_be_is_refused_at_once(make: Callable[[], object], line: str) -> None:
    assert refusal_of(make) == line


BEYOND = "must be at most N = 1000, the examples of one pass; use batch=full for all of them"


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (Fixed(1001), f"size=1001: {BEYOND}"),
        (MultiStep(1001, [1], 5), f"size=1001: {BEYOND}"),
        (MultiStep(128, [1], 5, max_size=5120), f"max_size=5120: {BEYOND}"),
        (Linear(1001, 1, 1), f"size=1001: {BEYOND}"),
        (Linear(1, 1001, 1), f"max_size=1001: {BEYOND}"),
        (Fixed(100, micro_batch_size=32), "size=100: must be a multiple of micro_batch_size=32; for example 96"),
        (Fixed(16, micro_batch_size=32), "size=16: must be a multiple of micro_batch_size=32; for example 32"),
        (MultiStep(100, [1], 5, micro_batch_size=32), "size=100: must be a multiple of micro_batch_size=32; for example 96"),
        (
            MultiStep(64, [1], 5, 100, micro_batch_size=32),
            "max_size=100: must be a multiple of micro_batch_size=32; for example 96",
        ),
        (Linear(64, 100, 1, micro_batch_size=32), "max_size=100: must be a multiple of micro_batch_size=32; for example 96"),
        (
            Full(micro_batch_size=64),
            "micro_batch_size=64: must divide N = 1000, the full batch; leave it at null; max_micro_batch_size limits the memory",
        ),
    ],
)
def test_a_size_that_n_does_not_allow_is_refused_when_n_is_known(strategy: BatchStrategy, line: str) -> None:
    assert refusal_of(lambda: strategy.check(1000)) == line


@pytest.mark.parametrize(
    "strategy",
    [
        Fixed(1000),
        Fixed(1),
        Full(),
        Full(micro_batch_size=8),
        MultiStep(1000, [1], 5, max_size=1000),
        Linear(1, 1000, 1),
        Fixed(96, micro_batch_size=32),
    ],
)
@pytest.mark.parametrize("last", LAST_WINDOW)
def test_the_bounds_themselves_are_allowed(strategy: BatchStrategy, last: str) -> None:
    strategy.check(1000)
    assert 1 <= strategy.size_at(0.0, 1.0, 1000) <= 1000
    assert Fixed(1, last=last).last == last

"""What the losses of branches say: the limit, the verdicts and their error rates, the critical batch, and what stopped the branches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from noisescale.measures.branch_verdicts import Comparison, Reference, compare, critical_batch, stopped_by
from noisescale.measures.branches import Losses


def reference(*ends: float, start: float = 10.0, tolerance: float = 0.2, progress: float = 0.5) -> Reference:
    return Reference(start, ends, tolerance, progress)


# -- the limit ----------------------------------------------------------------------------------------------------------------


def test_the_limit_is_the_stricter_of_the_tolerance_and_the_progress() -> None:
    falling = reference(1.0, 1.1, 0.9)
    assert (falling.gains, falling.by_progress) == (True, False)
    assert falling.limits == pytest.approx((1.2, 1.32, 1.08))
    assert falling.allowed == pytest.approx(0.2)
    floor = reference(0.61, 0.612, 0.608, start=0.66)
    assert (floor.gains, floor.by_progress) == (True, True)
    assert floor.allowed == pytest.approx(0.025)
    assert floor.limits == pytest.approx((0.635, 0.636, 0.634))


@pytest.mark.parametrize(
    ("start", "ends", "arm"),
    [
        (0.66, (0.610, 0.612, 0.608), (0.655, 0.657, 0.654)),  # a floor of 0.6: an arm that gains a tenth as much
        (3.2, (3.0, 3.01, 2.99), (3.15, 3.16, 3.15)),  # a language model, in nats
        (0.66, (0.610, 0.612, 0.608), (0.70, 0.69, 0.71)),  # it rises
        (-0.5, (-1.0, -1.01, -0.99), (-0.6, -0.61, -0.59)),  # a log likelihood
        (0.3, (-0.2, -0.21, -0.19), (0.2, 0.21, 0.19)),
    ],
)
def test_a_loss_with_a_floor_is_not_the_same_however_small_the_difference_is(
    start: float, ends: tuple[float, ...], arm: tuple[float, ...]
) -> None:
    assert compare(arm, reference(*ends, start=start)).verdict == "worse"
    assert compare(ends, reference(*ends, start=start)).verdict == "same"
    little = [end + 0.1 * (start - end) for end in ends]
    found = compare(little, reference(*ends, start=start))
    assert found.verdict == "same"
    assert found.lost == pytest.approx(0.1)


def test_where_the_smallest_batch_gains_nothing_significant_the_tolerance_holds() -> None:
    still = reference(0.61, 0.63, 0.62, start=0.621)
    assert (still.gains, still.by_progress) == (False, False)
    assert still.limits == pytest.approx((0.732, 0.756, 0.744))
    assert math.isnan(compare((0.62, 0.63, 0.61), still).lost)


losses = some.lists(some.floats(0.01, 10.0), min_size=3, max_size=6)


@given(losses, some.integers(0, 10**6), some.floats(0.01, 12.0), some.floats(0.01, 10.0), some.floats(0.01, 1.0))
def test_a_loss_that_rises_while_the_reference_falls_is_never_the_same(
    ends: list[float], seed: int, start: float, tolerance: float, progress: float
) -> None:
    draw = random.Random(seed)
    arm = [end * draw.uniform(0.9, 2.0) for end in ends]
    if sum(ends) / len(ends) < start < sum(arm) / len(arm):
        assert compare(arm, reference(*ends, start=start, tolerance=tolerance, progress=progress)).verdict != "same"


# -- comparisons --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize("start", [10.0, 1.7])
def test_the_comparison_is_two_one_sided_tests_of_student(seeds: int, start: float) -> None:
    draw = random.Random(seeds)
    ends = [draw.uniform(1, 1.5) for _ in range(seeds)]
    arm = [loss * draw.uniform(1.0, 1.3) for loss in ends]
    against = reference(*ends, start=start)
    found = compare(arm, against)
    logs = [math.log(a / b) for a, b in zip(arm, ends, strict=True)]
    low, high = stats.t.interval(0.9, seeds - 1, loc=sum(logs) / seeds, scale=stats.sem(logs))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    beyond = [math.log(a / b) for a, b in zip(arm, against.limits, strict=True)]
    for verdict, side in (("same", "less"), ("worse", "greater")):
        assert (found.verdict == verdict) == (stats.ttest_1samp(beyond, 0.0, alternative=side).pvalue <= 0.05)


def test_the_three_verdicts_and_a_divergence() -> None:
    against = reference(1.0, 1.1, 0.9)
    assert compare([1.02, 1.11, 0.92], against).verdict == "same"
    assert compare([1.5, 1.7, 1.3], against).verdict == "worse"
    assert compare([1.0, 1.6, 0.9], against).verdict == "undecided"
    assert compare([1.0, math.inf, 0.9], against).verdict == "worse"
    assert compare([0.5, 0.4, 0.45], against).verdict == "same", "what is better is not worse"
    assert compare([0.0, 0.0], reference(0.0, 0.0, start=0.0)).verdict == "same"
    diverged = reference(1.0, math.inf)
    assert not diverged.gains
    assert compare([1.0, 1.0], diverged).verdict == compare(diverged.ends, diverged).verdict == "worse"


# -- the critical batch -------------------------------------------------------------------------------------------------------


def at(excess: float, verdict: str) -> Comparison:
    return Comparison(verdict, excess, 0.01, excess, excess, excess, 0.01, math.nan)


def test_the_bracket_of_the_critical_batch() -> None:
    found = {8: at(-0.2, "same"), 16: at(-0.1, "same"), 32: at(-0.1, "same"), 64: at(0.02, "undecided"), 128: at(0.9, "worse")}
    bracket = critical_batch(found)
    assert (bracket.at_least, bracket.below) == (32, 128)
    assert bracket.in_words() == "32 to 128"  # what is undecided may cross by chance
    closed = critical_batch({**found, 64: at(0.02, "worse")})
    assert closed.estimate == pytest.approx(32 * 2 ** (0.1 / 0.12))
    assert closed.in_words() == f"about {closed.estimate:.0f} (32 to 64)"
    open_ended = critical_batch({8: at(-0.2, "same"), 16: at(-0.2, "same")})
    assert (open_ended.at_least, open_ended.below, open_ended.in_words()) == (16, math.inf, "16 or more")
    assert math.isnan(open_ended.estimate)
    diverged = critical_batch({8: at(-0.2, "same"), 16: at(math.inf, "worse")})
    assert diverged.estimate == pytest.approx(math.sqrt(8 * 16))
    none = critical_batch({8: at(math.inf, "worse")})
    assert (none.at_least, none.below, none.in_words()) == (8, 8, "below 8, the smallest that was tried")


def test_the_sequence_stops_at_the_first_size_that_is_not_the_same() -> None:
    found = {8: at(-0.2, "same"), 16: at(-0.1, "undecided"), 32: at(-0.2, "same"), 64: at(0.9, "worse")}
    assert critical_batch(found).at_least == 8


@given(some.lists(some.tuples(some.floats(-1, 1), some.sampled_from(("same", "undecided", "worse"))), min_size=1, max_size=8))
def test_the_estimate_lies_within_the_bracket(values: list[tuple[float, str]]) -> None:
    """Also where the mean crosses the limit more than once."""
    signs = {"same": -1.0, "worse": 1.0}
    found = {8 << k: at(math.copysign(abs(mean) + 1e-9, signs.get(verdict, mean)), verdict) for k, (mean, verdict) in enumerate(values)}
    bracket = critical_batch({**found, 4: at(-0.2, "same")})
    assert bracket.at_least <= bracket.below
    between = [each.verdict for size, each in found.items() if bracket.at_least <= size <= bracket.below]
    if math.isfinite(bracket.below) and "undecided" not in between:
        assert bracket.at_least <= bracket.estimate <= bracket.below
    else:
        assert math.isnan(bracket.estimate)


def test_the_branches_of_a_quadratic_break_where_its_curvature_says() -> None:
    """SGD on h x^2/2 with gradient noise c/B: with lr ~ B the loss after the same number of examples is the same as long as lr h << 2."""
    h, c, lr, size, examples = 1.0, 1.0, 0.01, 1, 4096

    def end(batch: int) -> float:
        a, updates = lr * batch / size, examples // batch
        shrink = (1 - a * h) ** (2 * updates)
        return shrink * 10 + a * c / (2 * batch * (2 - a * h)) * (1 - shrink) if a * h < 2 else math.inf

    against = reference(end(size), end(size))
    found = {batch: compare([end(batch)] * 2, against) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
    bracket = critical_batch(found)
    # In the steady state the loss goes as 1 / (2 - a h), which is 1.2 times that of a small a where a h = 1/3, at B = 33.
    assert (bracket.at_least, bracket.below) == (32, 64)
    assert bracket.estimate == pytest.approx(33, rel=0.1)


# -- how often they err -------------------------------------------------------------------------------------------------------

SIZES = (8, 16, 32, 64, 128, 256, 512)


def largest_same(found: dict[int, Comparison]) -> float:
    """The rule that errs: the largest size that passes, whatever smaller ones do."""
    return max(size for size in SIZES if found[size].verdict == "same")


def lower_end(found: dict[int, Comparison]) -> float:
    return critical_batch(found).at_least


def studies(number: int, start: float, seeds: int) -> list[dict[int, Comparison]]:
    """Simulated studies in which sizes above 32 lose a thousandth more than is allowed: a lower end above 32 is an error.

    The logarithm of a loss has a spread of 0.1 over seeds, of which a half is common to all sizes.
    """
    draw = np.random.default_rng(seeds)
    found = []
    for _ in range(number):
        common, own = draw.normal(0, 0.07, seeds), draw.normal(0, 0.07, (len(SIZES), seeds))
        truth = Reference(start, (1.0, 1.0), 0.2, 0.5)
        loss = {size: 1.0 if size <= 32 else 1.0 + 1.001 * truth.allowed for size in SIZES}
        ends = {size: tuple(float(loss[size] * math.exp(x)) for x in common + own[row]) for row, size in enumerate(SIZES)}
        found.append({size: compare(ends[size], reference(*ends[8], start=start)) for size in SIZES})
    return found


def share_above(found: Sequence[dict[int, Comparison]], lower: Callable[[dict[int, Comparison]], float]) -> float:
    return sum(lower(each) > 32 for each in found) / len(found)


def test_the_lower_end_of_the_bracket_is_seldom_too_large() -> None:
    found = studies(200, 10.0, 6)
    assert share_above(found, lower_end) <= 0.096  # 5 % and three standard errors
    assert share_above(found, largest_same) > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [4, 6, 12])
@pytest.mark.parametrize("start", [10.0, 1.25], ids=["tolerance", "progress"])
def test_the_lower_end_of_the_bracket_errs_in_at_most_5_percent(start: float, seeds: int) -> None:
    """Also where the limit is the share of a progress that is itself measured, and sometimes not significant."""
    number = 3000
    found = studies(number, start, seeds)
    assert share_above(found, lower_end) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / number)
    assert share_above(found, largest_same) > 0.1


# -- the rate or the batch ----------------------------------------------------------------------------------------------------


def curve(*parts: float, start: float = 1.0) -> Losses:
    return Losses(start, parts)


def test_what_stopped_the_branches() -> None:
    falling, diverging, rising = curve(2.0, *[0.9] * 7), curve(0.9, math.nan), curve(*[1.3] * 8)
    same, worse, undecided = (at(0.0, verdict) for verdict in ("same", "worse", "undecided"))
    assert stopped_by([falling, diverging], worse, 0.2) == "rate"
    assert stopped_by([falling, rising, rising], worse, 0.2) == "rate"
    assert stopped_by([falling, falling, rising], worse, 0.2) == "batch"
    assert stopped_by([falling, falling], worse, 0.2, apart=2.0) == "batch"
    assert stopped_by([falling, falling], worse, 0.2, apart=8.0) == "not sure"  # half the rate is still above any that was the same
    assert stopped_by([falling, falling], same, 0.2, apart=8.0) == "rate"
    assert stopped_by([falling, falling], same, 0.2) == "rate"
    assert stopped_by([falling, falling], undecided, 0.2) == "not sure"
    assert stopped_by([falling, falling], None, 0.2) == "not sure"

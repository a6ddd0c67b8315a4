"""The arithmetic of branches: which sizes and how long, and what their losses say of the critical batch."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from noisescale.errors import ConfigError
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import (
    PARTS,
    Arm,
    Comparison,
    Losses,
    compare,
    critical_batch,
    examples_of_branch,
    rules_of,
    sizes_of_branches,
    stopped_by,
)


def test_the_rule_follows_the_optimizer() -> None:
    assert rules_of("SGD") == ("linear",)
    assert rules_of("AdamW") == rules_of("Adam") == ("linear", "sqrt")
    assert Arm("linear", 128).rate(32) == 4.0
    assert Arm("sqrt", 128).rate(32) == 2.0
    assert Arm("sqrt", 8, 0.5).rate(32) == 0.25


@pytest.mark.parametrize(
    ("size", "most", "at_least", "expected"),
    [
        (32, 300, 1, [8, 16, 32, 64, 128, 256]),
        (30, 60, 1, [6, 15, 30, 60]),
        (31, 124, 1, [1, 31, 62, 124]),
        (4, 16, 2, [2, 4, 8, 16]),
        (1, 4, 1, [1, 2, 4]),
        (64, 40, 1, [16, 32]),
    ],
)
def test_the_sizes_of_branches(size: int, most: int, at_least: int, expected: list[int]) -> None:
    assert sizes_of_branches(size, most, at_least) == expected


@given(some.integers(1, 300), some.integers(1, 20_000), some.integers(0, 5))
def test_every_size_fits_a_branch_a_whole_number_of_times(size: int, length: int, doublings: int) -> None:
    sizes = sizes_of_branches(size, size << doublings)
    examples = examples_of_branch(length, sizes)
    assert examples >= length
    assert all(examples % (PARTS * each) == 0 for each in sizes)


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sizes=\[31, 33, 37\]: have no common multiple near 1000 examples"):
        examples_of_branch(1000, [31, 33, 37])


# -- comparisons --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8, 20])
def test_the_comparison_is_two_one_sided_tests_of_student(seeds: int) -> None:
    draw = random.Random(seeds)
    reference = [draw.uniform(1, 2) for _ in range(seeds)]
    losses = [loss * draw.uniform(1.0, 1.3) for loss in reference]
    found = compare(losses, reference, 0.2)
    logs = [math.log(a / b) for a, b in zip(losses, reference, strict=True)]
    low, high = stats.t.interval(0.9, seeds - 1, loc=sum(logs) / seeds, scale=stats.sem(logs))
    assert (found.low, found.high) == pytest.approx((low, high), abs=3e-3 * (high - low))


def test_the_three_verdicts_and_a_divergence() -> None:
    reference = [1.0, 1.1, 0.9]
    assert compare([1.02, 1.11, 0.92], reference, 0.2).verdict == "same"
    assert compare([1.5, 1.7, 1.3], reference, 0.2).verdict == "worse"
    assert compare([1.0, 1.6, 0.9], reference, 0.2).verdict == "undecided"
    assert compare([1.0, math.inf, 0.9], reference, 0.2).verdict == "worse"
    assert compare([0.5, 0.4, 0.45], reference, 0.2).verdict == "same", "what is better is not worse"
    assert compare([0.0, 0.0], [0.0, 0.0], 0.2).verdict == "same"


def at(mean: float, verdict: str) -> Comparison:
    return Comparison(verdict, mean, 0.01, mean, mean)


def test_the_bracket_of_the_critical_batch() -> None:
    found = {8: at(0, "same"), 16: at(0.01, "same"), 32: at(0.1, "undecided"), 64: at(0.05, "same"), 128: at(0.9, "worse")}
    bracket = critical_batch(found, 0.2)
    assert (bracket.at_least, bracket.below) == (64, 128)
    assert 64 < bracket.estimate < 128
    assert bracket.in_words() == f"about {bracket.estimate:.0f} (64 to 128)"
    undecided = critical_batch({8: at(0, "same"), 16: at(0.2, "undecided"), 32: at(0.9, "worse")}, 0.2)
    assert (undecided.at_least, undecided.below) == (8, 32)
    open_ended = critical_batch({8: at(0, "same"), 16: at(0, "same")}, 0.2)
    assert (open_ended.at_least, open_ended.below, open_ended.in_words()) == (16, math.inf, "16 or more")
    assert math.isnan(open_ended.estimate)
    diverged = critical_batch({8: at(0, "same"), 16: at(math.inf, "worse")}, 0.2)
    assert diverged.estimate == pytest.approx(math.sqrt(8 * 16))


def test_the_branches_of_a_quadratic_break_where_its_curvature_says() -> None:
    """SGD on h x^2/2 with gradient noise c/B: with lr ~ B the loss after the same number of examples is the same as long as lr h << 2."""
    h, c, lr, size, examples = 1.0, 1.0, 0.01, 1, 4096

    def end(batch: int) -> float:
        a, updates = lr * batch / size, examples // batch
        shrink = (1 - a * h) ** (2 * updates)
        return shrink * 10 + a * c / (2 * batch * (2 - a * h)) * (1 - shrink) if a * h < 2 else math.inf

    found = {batch: compare([end(batch)] * 2, [end(size)] * 2, 0.2) for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256)}
    bracket = critical_batch(found, 0.2)
    # In the steady state the loss goes as 1 / (2 - a h), which is 1.2 times that of a small a where a h = 1/3, at B = 33.
    assert (bracket.at_least, bracket.below) == (32, 64)
    assert bracket.estimate == pytest.approx(33, rel=0.1)


# -- the rate or the batch ----------------------------------------------------------------------------------------------------


def curve(*parts: float, start: float = 1.0) -> Losses:
    return Losses(start, parts)


def test_a_branch_ends_with_the_mean_of_its_last_two_values() -> None:
    steady = curve(*[0.5] * 6, 0.4, 0.1)
    assert steady.end == pytest.approx(0.2)
    assert curve(0.5, math.nan).end == math.inf
    assert curve(0.5, math.nan).diverged
    assert curve(*[0.0] * 8).end == 0.0


def test_what_stopped_the_branches() -> None:
    falling, diverging, rising = curve(2.0, *[0.9] * 7), curve(0.9, math.nan), curve(*[1.3] * 8)
    same, worse, undecided = (at(0.0, verdict) for verdict in ("same", "worse", "undecided"))
    assert stopped_by([falling, diverging], worse, 0.2) == "rate"
    assert stopped_by([falling, rising, rising], worse, 0.2) == "rate"
    assert stopped_by([falling, falling, rising], worse, 0.2) == "batch"
    assert stopped_by([falling, falling], same, 0.2) == "rate"
    assert stopped_by([falling, falling], undecided, 0.2) == "not sure"
    assert stopped_by([falling, falling], None, 0.2) == "not sure"


# -- options ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"at": [2, 1]}, r"at=\[2, 1\]: must be strictly increasing"),
        ({"at": []}, r"at=\[\]: must be a list of epochs that is not empty"),
        ({"at": 3}, r"at=3: must be a list of epochs"),
        ({"length": 0}, r"length=0: must be a finite number in \(0, inf\), in epochs"),
        ({"sizes": [32]}, r"sizes=\[32\]: needs two or more"),
        ({"sizes": [0.5, 2]}, r"sizes=0\.5: must be a whole number of examples"),
        ({"seeds": 1}, "seeds=1: must be a whole number, 2 to 1000; the spread over seeds"),
        ({"tolerance": 0}, r"tolerance=0: must be a finite number in \(0, 10\]"),
        ({"tolerance": "x"}, "tolerance=x"),
        ({"examples": 0}, "examples=0: must be a whole number of examples, at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        BranchOptions(**options)  # type: ignore[arg-type]


def test_the_times_lie_within_the_training() -> None:
    assert BranchOptions().times(20) == (1.0, 5.0, 15.0)
    assert BranchOptions(at=[0.5, 3]).times(3) == (0.5, 3.0)
    with pytest.raises(ConfigError, match=r"at=\[4\.0\]: must be at most epochs=3"):
        BranchOptions(at=[4]).times(3)

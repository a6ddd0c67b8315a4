"""The arithmetic of branches: which sizes, how long, and the loss of one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from noisescale.errors import ConfigError
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import (
    PARTS,
    Arm,
    Losses,
    examples_of_branch,
    rules_of,
    sizes_of_branches,
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


# -- their losses --------------------------------------------------------------------------------------------------------------


def curve(*parts: float, start: float = 1.0) -> Losses:
    return Losses(start, parts)


def test_a_branch_ends_with_the_mean_of_its_last_two_values() -> None:
    steady = curve(*[0.5] * 6, 0.4, 0.1)
    assert steady.end == pytest.approx(0.2)
    assert curve(0.5, math.nan).end == math.inf
    assert curve(0.5, math.nan).diverged
    assert Losses(2.0, (*[1.0] * 7, 2001.0)).diverged  # its logarithm would drown those of the other seeds
    assert not Losses(2.0, (*[3000.0] * 7, 1999.0)).diverged
    assert not Losses(-2.0, (*[1.0] * 7, 2001.0)).diverged  # no loss to be a multiple of
    assert curve(*[0.0] * 8).end == 0.0


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
        ({"gain_tolerance": 0}, r"gain_tolerance=0: must be a finite number in \(0, 1\]; 0\.5 is half of what the loss falls by"),
        ({"gain_tolerance": 1.5}, r"gain_tolerance=1\.5"),
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

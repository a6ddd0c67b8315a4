"""The helpers of the tests that decide whether a test passes: they can fail."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.chi_square import p_value
from tests.helpers.rounding import assert_equal_to_rounding


def test_equality_to_rounding_is_in_units_of_the_largest_entry() -> None:
    expected = torch.tensor([1e-20, 0.0, -8.0], dtype=torch.float64)
    unit = 8 * torch.finfo(torch.float64).eps
    assert_equal_to_rounding(expected + torch.tensor([3 * unit, 0.0, 0.0]), expected, 3)
    for wrong in (4 * unit, math.nan, math.inf):
        with pytest.raises(AssertionError, match="where the largest is 8"):
            assert_equal_to_rounding(expected + torch.tensor([wrong, 0.0, 0.0]), expected, 3)


def test_shapes_precisions_and_whole_numbers_must_be_equal() -> None:
    ones = torch.ones(3)
    for wrong in (torch.ones(2), torch.ones(3, 1), ones.double()):
        with pytest.raises(AssertionError):
            assert_equal_to_rounding(wrong, ones, 1000)
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(torch.tensor(4), torch.tensor(5), 1000)
    assert_equal_to_rounding(torch.zeros(3), torch.zeros(3), 1)


def test_chi_square_by_hand() -> None:
    """With one degree of freedom it is the probability of |z| > sqrt(statistic): 4 for 60 of 100, 1 for 55."""
    fair = {"heads": 0.5, "tails": 0.5}
    for heads, sigmas in ((60, 2.0), (55, 1.0), (50, 0.0)):
        assert p_value({"heads": heads, "tails": 100 - heads}, fair) == pytest.approx(math.erfc(sigmas / math.sqrt(2)), rel=1e-9)
    with pytest.raises(AssertionError):
        p_value({"edge": 1}, fair)
    # With two degrees of freedom it is exp(-statistic/2); the statistic of (20, 40, 30) against thirds is 10/3 + 10/3.
    assert p_value({0: 20, 1: 40, 2: 30}, dict.fromkeys(range(3), 1 / 3)) == pytest.approx(math.exp(-10 / 3), rel=1e-9)

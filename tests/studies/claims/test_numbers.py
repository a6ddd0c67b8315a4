"""Digits follow the interval."""

from __future__ import annotations

import math

import pytest

from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.99512, 0.98511, 1.00523, ("0.995", "0.985 to 1.005")),
        (2.687, 2.58, 2.79, ("2.69", "2.58 to 2.79")),
        (-0.00484, -0.00715, -0.00253, ("-0.0048", "-0.0072 to -0.0025")),
        (1.0, 1.0, 1.0, ("1", "1 to 1")),
        (0.414, 0.414, 0.414 + 1e-16, ("0.4140", "0.4140 to 0.4140")),  # four significant digits, not what rounding leaves
        (12345.0, 12000.0, 12700.0, ("12345", "12000 to 12700")),
        (3.0, -math.inf, math.inf, ("3", "-inf to inf")),
        (3.0, None, None, ("3", "")),
        (0.5, 0.02, 11.0, ("0.5", "0.02 to 11")),
        (19.0, 1.6, 400.0, ("19", "1.6 to 4e+02")),
        (-1e-9, -0.0005, 0.0005, ("0.0000", "-0.0005 to 0.0005")),
    ],
)
def test_digits(value: float, low: float | None, high: float | None, said: tuple[str, str]) -> None:
    assert (estimate_in_words(value, low, high), interval_in_words(low, high)) == said

"""Equality of numbers that were computed in another order, or by the code that another processor has: a bound for what that may change."""

from __future__ import annotations

import torch
from torch import Tensor

GRADIENT_ROUNDINGS = 8
"""|g - g_big| / |g_big| of a gradient that is summed up over micro-batches, in units of the precision.

Of some thirty partial sums each rounds by half a unit at most, up or down as it happens: by the square root of thirty, about three units
for the vector as a whole. In single precision eight units are 1e-6.
"""


def assert_equal_to_rounding(found: Tensor, expected: Tensor, roundings: int) -> None:
    """Each entry to `roundings` units in the last place of the LARGEST entry.

    Terms that are added in another order give another sum, by one unit of the largest partial sum for each term at most: so the length
    of the longest sum, times the number of layers or updates that one goes through, bounds the difference, wherever the entries lie
    that happen to be near 0.
    """
    assert found.shape == expected.shape
    if not expected.is_floating_point():
        assert torch.equal(found, expected)
        return
    assert found.dtype == expected.dtype
    error, size = ((found - expected).abs().max(), expected.abs().max()) if expected.numel() else (torch.zeros(()), torch.zeros(()))
    assert error <= roundings * torch.finfo(expected.dtype).eps * size, f"off by {error:.3g} where the largest is {size:.3g}"

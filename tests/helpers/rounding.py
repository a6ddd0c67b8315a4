"""Compare numbers that were computed in a different order, or by the code for a different processor, within a derived bound."""

from __future__ import annotations

import torch
from torch import Tensor

GRADIENT_ROUNDINGS = 8
"""Bound of |g - g_big| / |g_big| for a gradient g that is summed over micro-batches, in units of the machine precision.

Each of about thirty partial sums is rounded by at most half a unit, at random up or down. That adds up as the square root of thirty, to
about three units for the whole vector. In single precision eight units are 1e-6.
"""


def assert_equal_to_rounding(found: Tensor, expected: Tensor, roundings: int) -> None:
    """Assert that each entry is equal to within `roundings` units in the last place of the LARGEST entry.

    If terms are added in a different order, their sum changes by at most one unit of the largest partial sum for each term. So the length
    of the longest sum, times the number of layers or updates in a row, bounds the difference. The bound also holds for entries that happen
    to be near 0.
    """
    assert found.shape == expected.shape
    if not expected.is_floating_point():
        assert torch.equal(found, expected)
        return
    assert found.dtype == expected.dtype
    error, size = ((found - expected).abs().max(), expected.abs().max()) if expected.numel() else (torch.zeros(()), torch.zeros(()))
    assert error <= roundings * torch.finfo(expected.dtype).eps * size, f"off by {error:.3g} where the largest is {size:.3g}"

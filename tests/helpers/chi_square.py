"""Pearson's chi-square test of counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

K = TypeVar("K")


def p_value(observed: Mapping[K, int], expected: Mapping[K, float]) -> float:
    """How likely it is that counts are at least as far from the probabilities `expected` as `observed` is; no other keys may be there."""
    total = sum(observed.values())
    assert {*observed} <= {*expected}
    assert abs(sum(expected.values()) - 1) < 1e-9
    statistic = sum((observed.get(key, 0) - total * share) ** 2 / (total * share) for key, share in expected.items())
    halves = torch.tensor([len(expected) - 1, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(*halves))

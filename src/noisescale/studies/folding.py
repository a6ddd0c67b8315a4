"""Several seeds as one: mean and standard deviation of final values, mean and range of curves."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Band", "Curve", "Spread", "fold", "spread"]

Curve = tuple[Sequence[float], Sequence[float]]
"""x, strictly increasing, and y; as many of each."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divided by n - 1) of n values; the latter is None for n = 1."""

    n: int
    mean: float
    std: float | None

    def __str__(self) -> str:
        """`0.9870 +- 0.0028`; numbers below 0.1 have three digits instead of four places."""
        places = ".4f" if 0.1 <= abs(self.mean) < 1e4 or self.mean == 0 else ".3g"
        if self.std is None:
            return format(self.mean, places)
        return f"{format(self.mean, places)} +- {format(self.std, places if places == '.4f' else '.2g')}"


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation of the values; None if there are none. Each must be finite."""
    if not values:
        return None
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Band:
    """Mean, smallest and largest of several curves at each x."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def fold(curves: Sequence[Curve]) -> Band | None:
    """The mean and the range of curves over the x that all of them cover; None if there are no such x.

    Beyond the end of the shortest curve there is no mean: that of the others would be one of fewer seeds, and might rise or fall by that
    alone. Curves with the same x are taken point by point; between the points of the others values are interpolated linearly.
    """
    if not curves or any(not x for x, _ in curves):
        return None
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = sorted({value for x, _ in curves for value in x if start <= value <= end})
    if not grid:
        return None
    columns = [[_at(curve, value) for curve in curves] for value in grid]
    return Band(grid, [math.fsum(each) / len(each) for each in columns], [min(each) for each in columns], [max(each) for each in columns])


def _at(curve: Curve, value: float) -> float:
    """y at x = value, which the curve covers."""
    x, y = curve
    right = bisect_left(x, value)
    if x[right] == value:
        return y[right]
    share = (value - x[right - 1]) / (x[right] - x[right - 1])
    return y[right - 1] + share * (y[right] - y[right - 1])

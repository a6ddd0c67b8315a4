"""What seeds say about one number: its estimate over n seeds, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Effect", "mean_of", "optimum", "ratio", "slope", "welch"]


@dataclass(frozen=True)
class Effect:
    """An estimate, normally distributed on its own scale (that of logarithms for a ratio).

    Attributes:
        value: the estimate.
        error: its standard error; 0 if all seeds agree exactly.
        freedom: degrees of freedom of Student's t.
        n: the number of seeds.
        is_log: value and error are those of a logarithm, and an interval is one of ratios.
    """

    value: float
    error: float
    freedom: float
    n: int
    is_log: bool = False

    @property
    def shown(self) -> float:
        """The estimate as a reader wants it: a ratio and not its logarithm."""
        return math.exp(self.value) if self.is_log else self.value

    def interval(self, alpha: float) -> tuple[float, float]:
        """The interval whose either bound is exceeded with probability alpha: value -+ t(1 - alpha) error.

        Its confidence is 1 - 2 alpha. That it lies inside (-m, m) is the same as that both one-sided tests of TOST reject at alpha.
        With one seed nothing is known, unless the estimate is exact: the interval is everything.
        """
        if self.n < 2:
            return -math.inf if not self.is_log else 0.0, math.inf
        reach = 0.0 if self.error == 0 else float(stats.t.ppf(1 - alpha, self.freedom)) * self.error
        low, high = self.value - reach, self.value + reach
        return (math.exp(low), math.exp(high)) if self.is_log else (low, high)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """How far from a bound a true effect must be, so that seeds with this spread show it with this probability.

        (t(1 - alpha) + t(power)) error; for a ratio the factor; nan for one seed. It is what a study with as many seeds can see, and says
        nothing of the effect. The noncentral t is approximated by two quantiles: a power of 0.8 is 0.80 to 0.81 for three seeds or more.
        """
        if self.n < 2:
            return math.nan
        reach = (float(stats.t.ppf(1 - alpha, self.freedom)) + float(stats.t.ppf(power, self.freedom))) * self.error
        return math.exp(reach) if self.is_log else reach

    def p_below(self, bound: float) -> float:
        """The p-value of the one-sided test whose alternative is that the true value is below `bound`."""
        if self.is_log:
            bound = math.log(bound) if bound > 0 else -math.inf
        if self.n < 2:
            return 1.0
        if self.error == 0:
            return 0.0 if self.value < bound else 1.0
        return float(stats.t.cdf((self.value - bound) / self.error, self.freedom))

    def p_above(self, bound: float) -> float:
        """The same, with the alternative that the true value is above `bound`."""
        if self.is_log:
            bound = math.log(bound) if bound > 0 else -math.inf
        if self.n < 2:
            return 1.0
        if self.error == 0:
            return 0.0 if self.value > bound else 1.0
        return float(stats.t.sf((self.value - bound) / self.error, self.freedom))


def mean_of(values: Sequence[float]) -> Effect:
    """The mean over seeds, with the standard error s/sqrt(n). Of the differences of two arms, seed by seed, it is the paired t-test.

    Args:
        values: one number per seed, at least one, all finite.
    """
    numbers = np.asarray(values, dtype=float)
    n = len(numbers)
    error = float(numbers.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return Effect(float(numbers.mean()), error, n - 1, n)


def welch(first: Sequence[float], second: Sequence[float]) -> Effect:
    """mean(first) - mean(second) for arms whose seeds are not paired, with Welch's standard error and degrees of freedom.

    The error squared is s1^2/n1 + s2^2/n2. n is the smaller number of seeds.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n = min(len(a), len(b))
    difference = float(a.mean() - b.mean())
    if n < 2 or a.var() == b.var() == 0:
        return Effect(difference, 0.0, max(n - 1, 0), n)
    test = stats.ttest_ind(a, b, equal_var=False)
    return Effect(difference, float(math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))), float(test.df), n)


def ratio(first: Sequence[float], second: Sequence[float]) -> Effect:
    """The geometric mean of first/second, seed by seed: exp of the mean of log(first) - log(second). All values are positive."""
    logs = np.log(np.asarray(first, dtype=float)) - np.log(np.asarray(second, dtype=float))
    effect = mean_of(logs.tolist())
    return Effect(effect.value, effect.error, effect.freedom, effect.n, is_log=True)


def slope(x: Sequence[float], y: Sequence[Sequence[float]]) -> Effect:
    """The exponent p of y ~ x^p: the least-squares slope of log y on log x in each seed, and its mean over the seeds.

    Args:
        x: the positive number of each arm, at least two different ones.
        y: for each arm its positive values, one per seed, in the same order of seeds.
    """
    at = np.log(np.asarray(x, dtype=float))
    logs = np.log(np.asarray(y, dtype=float))  # arms x seeds
    centred = at - at.mean()
    slopes = centred @ logs / float(centred @ centred)
    return mean_of(slopes.tolist())


def optimum(values: Mapping[float, float]) -> float:
    """Where a curve over a positive number has its peak: that of the parabola, over log x, through its largest value and the two beside it.

    It is nan if the largest value is at an end of the grid, because the peak may lie beyond.

    Args:
        values: x -> y, at least one.
    """
    xs = sorted(values)
    best = max(range(len(xs)), key=lambda index: values[xs[index]])
    if best in (0, len(xs) - 1):
        return math.nan
    around = xs[best - 1 : best + 2]
    a, b, _ = np.polyfit(np.log(around) - math.log(xs[best]), [values[x] for x in around], 2)
    return xs[best] if a >= 0 else float(xs[best] * math.exp(-b / (2 * a)))

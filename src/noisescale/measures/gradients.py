"""The gradient noise scale, tr(Sigma) / |G|^2, from the gradients of the pieces of updates. Plain numbers: no torch, no trainer.

Not to be confused with the SGD noise scale g = lr (N/B - 1), which is known without any gradient, nor with the critical batch size, which
is fitted from whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from noisescale.errors import check_number

__all__ = ["NoiseAverage", "NoiseEstimate", "Piece", "RecentNoise", "Sums", "batch_efficiency", "estimate", "student_quantile", "sums_of"]

SCALE_DECAY = 0.5
"""Of the average of tr(Sigma) by which `RecentNoise` divides: it follows a tr(Sigma) that halves from one measurement to the next."""


class Piece(NamedTuple):
    """A part of the batch of one update, whose gradient was computed by itself.

    Args:
        weight: w_i > 0, in any unit: the gradient of the update is sum(w_i G_i) / sum(w_i).
        size: n_i > 0, in examples, or in what else the loss of the piece is a mean over, such as tokens.
        squared_norm: |G_i|^2, where G_i is the gradient of the mean loss of the piece.
    """

    weight: float
    size: float
    squared_norm: float


class Sums(NamedTuple):
    """What is needed of the pieces of an update. The sums of all devices are the sums of those of each device."""

    pieces: float = 0.0
    weight: float = 0.0  # sum w_i
    squares: float = 0.0  # sum w_i |G_i|^2
    spread: float = 0.0  # sum w_i / n_i
    spread_of_mean: float = 0.0  # sum w_i^2 / n_i


def sums_of(pieces: Iterable[Piece]) -> Sums:
    """The sums over some pieces."""
    rows = [(1.0, w, w * square, w / n, w * w / n) for w, n, square in pieces]
    return Sums(*(math.fsum(column) for column in zip(*rows, strict=True))) if rows else Sums()


class NoiseEstimate(NamedTuple):
    """An unbiased estimate from one update.

    Args:
        grad_sq_norm: of |G|^2, where G is the mean gradient over what the examples are drawn from. It can be negative.
        grad_cov_trace: of tr(Sigma), where Sigma is the covariance of the gradients of single examples.
        size: B, in the unit of the sizes of the pieces.
    """

    grad_sq_norm: float
    grad_cov_trace: float
    size: float


def estimate(sums: Sums, squared_norm: float) -> NoiseEstimate | None:
    """tr(Sigma) = (sum a_i |G_i|^2 - |G_B|^2) / (sum a_i/n_i - sum a_i^2/n_i),  |G|^2 = |G_B|^2 - tr(Sigma) sum a_i^2/n_i.

    Here a_i = w_i / sum(w_j), and G_B = sum(a_i G_i) is the gradient of the update. If the weights are the sizes, as in every update of a
    plan, then sum a_i/n_i = P/B and sum a_i^2/n_i = 1/B, which gives McCandlish et al.'s estimators for any number P of pieces of any
    sizes. E |G_i|^2 = |G|^2 + tr(Sigma)/n_i, so both are unbiased, and neither depends on B.

    Drawn without replacement from N examples, tr(Sigma) is that of the N examples (with N - 1 in the denominator), without bias, and the
    mean of |G|^2 is |G_N|^2 - tr(Sigma)/N, where G_N is the gradient over all N of them. That is what the examples were drawn from once,
    and it can be negative where the N gradients nearly cancel, near interpolation.

    Args:
        sums: over all pieces of the update, on all devices.
        squared_norm: |G_B|^2.

    Returns:
        The estimate; None if there are fewer than two pieces, or if a number is nan or infinite.

    Source: McCandlish et al. 1812.06162, for two batch sizes.
    """
    if sums.pieces < 2 or not all(map(math.isfinite, (*sums, squared_norm))):
        return None
    of_piece, of_mean = sums.spread / sums.weight, sums.spread_of_mean / sums.weight**2
    trace = (sums.squares / sums.weight - squared_norm) / (of_piece - of_mean)
    return NoiseEstimate(squared_norm - trace * of_mean, trace, 1.0 / of_mean)


@dataclass(frozen=True)
class NoiseAverage:
    """Exponential averages of |G|^2 and of tr(Sigma), each by itself and without the bias towards 0 at the start.

    The estimate of i measurements ago has the weight decay^i. The mean of the ratios would be biased, and is undefined where a single
    |G|^2 is not above 0, so the ratio is that of the means.

    Args:
        decay: in [0, 1).
        weights, squared_weights: the sum of the weights, and of their squares; 0 before the first measurement.
        square, trace: the means of |G|^2 and of tr(Sigma); nan before the first measurement.
        var_square, covariance, var_trace: weighted sums of the squared deviations from these means, and of their products.
    """

    decay: float
    weights: float = 0.0
    squared_weights: float = 0.0
    square: float = math.nan
    trace: float = math.nan
    var_square: float = 0.0
    covariance: float = 0.0
    var_trace: float = 0.0

    def __post_init__(self) -> None:
        check_number("decay", self.decay, at_least=0.0, below=1.0)

    def with_estimate(self, found: NoiseEstimate) -> NoiseAverage:
        """The average after one more measurement."""
        d, weights = self.decay, self.decay * self.weights + 1.0
        first = self.weights == 0.0
        by_square = 0.0 if first else found.grad_sq_norm - self.square
        by_trace = 0.0 if first else found.grad_cov_trace - self.trace
        square = found.grad_sq_norm if first else self.square + by_square / weights
        trace = found.grad_cov_trace if first else self.trace + by_trace / weights
        return NoiseAverage(
            d,
            weights,
            d * d * self.squared_weights + 1.0,
            square,
            trace,
            d * self.var_square + by_square * (found.grad_sq_norm - square),
            d * self.covariance + by_square * (found.grad_cov_trace - trace),
            d * self.var_trace + by_trace * (found.grad_cov_trace - trace),
        )

    @property
    def noise_scale(self) -> float:
        """B_simple = tr(Sigma) / |G|^2, in examples; nan if the mean of |G|^2 is not above 0, or if nothing has been measured."""
        return self.trace / self.square if self.square > 0.0 else math.nan

    @property
    def measurements(self) -> float:
        """n, the number of equally weighted measurements whose mean would be as precise: sum(w)^2 / sum(w^2)."""
        return self.weights**2 / self.squared_weights if self.weights else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Where B_simple lies with this confidence: Fieller's interval for the ratio of two means, (low, high) in examples.

        All rho with (trace - rho square)^2 <= t^2 Var(trace - rho square), t of Student's distribution with n - 1 degrees of freedom. If
        |G|^2 does not differ from 0 by t standard errors, then nothing bounds the ratio from above, and high is inf. (-inf, inf) if not
        even tr(Sigma) does, or for fewer than three measurements. The measurements count as independent draws around one value: where
        B_simple has a trend, the interval is one of its mean over the measurements, and what it is at present may lie outside.

        Args:
            confidence: in (0, 1).

        Source: Fieller 1954, doi 10.1111/j.2517-6161.1954.tb00159.x.
        """
        check_number("confidence", confidence, above=0.0, below=1.0)
        n, nothing = self.measurements, (-math.inf, math.inf)
        if n < 3.0 - 1e-9:  # two degrees of freedom
            return nothing
        t = student_quantile(0.5 + confidence / 2, n - 1.0)
        scale = t * t / (self.weights * (n - 1.0))
        x, y = self.trace, self.square
        a, b, c = y * y - scale * self.var_square, x * y - scale * self.covariance, x * x - scale * self.var_trace
        discriminant = b * b - a * c
        if discriminant < 0.0 or a == 0.0:
            return nothing
        root = math.sqrt(discriminant)
        low, high = sorted(((b - root) / a, (b + root) / a))
        if a > 0.0:
            return (low, high) if y > 0.0 else nothing
        return (high, math.inf) if c > 0.0 and high > 0.0 else nothing


@dataclass(frozen=True)
class RecentNoise:
    """Exponential averages of |G|^2 / s and tr(Sigma) / s, where s is what tr(Sigma) was shortly before each measurement.

    Both |G|^2 and tr(Sigma) can fall by powers of ten during a training. An average of them as they are would then remain that of its first
    measurements, however small their weight has become. Divided by s, all measurements are of one magnitude, and 1/B_simple is averaged
    rather than |G|^2. s is known before the measurement that it divides, so that neither average gets a bias by it; the first measurement
    has none before it and is divided by its own tr(Sigma).

    Args:
        average: of the divided values.
        scale: s of the next measurement, an exponential average of tr(Sigma) with the decay 1/2; nan before the first.

    Not to be confused with `NoiseAverage` by itself, which suits measurements at the same weights, or at a plateau.
    """

    average: NoiseAverage
    scale: float = math.nan

    def with_estimate(self, found: NoiseEstimate) -> RecentNoise:
        """The averages after one more measurement; the same if it and all before it have had no noise at all."""
        now, s = found.grad_cov_trace, self.scale
        if math.isnan(s):
            s = now
        if not s > 0.0:
            return self
        relative = NoiseEstimate(found.grad_sq_norm / s, now / s, found.size)
        scale = now if math.isnan(self.scale) else SCALE_DECAY * s + (1.0 - SCALE_DECAY) * now
        return RecentNoise(self.average.with_estimate(relative), scale)

    @property
    def noise_scale(self) -> float:
        """B_simple, in examples; nan if the average of |G|^2 is not above 0, or if nothing has been measured."""
        return self.average.noise_scale

    @property
    def square(self) -> float:
        """|G|^2: the average, times the present s."""
        return self.average.square * self.scale

    @property
    def trace(self) -> float:
        """tr(Sigma): the average, times the present s."""
        return self.average.trace * self.scale

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """(low, high) in examples, see `NoiseAverage.interval`."""
        return self.average.interval(confidence)


def batch_efficiency(size: float, noise_scale: float) -> float:
    """1 / (1 + B / B_simple): how much each example adds, relative to a batch much smaller than B_simple; nan if that is nan.

    It is E_min/E of McCandlish et al. 1812.06162, with B_simple in place of the critical batch size, for one update and to
    second order in it. It says nothing about a whole training: B_simple overestimates the critical batch on images, and rises during it.
    """
    return noise_scale / (noise_scale + size)


def student_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's distribution with `freedom` > 0 degrees of freedom, for a probability in (0, 1)."""
    from scipy.special import stdtrit  # imported here, so that a plan does without it

    return float(stdtrit(freedom, probability))

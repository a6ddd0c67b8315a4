"""The learning-rate range test: how the rate rises, and what the losses suggest. Plain numbers: no torch, no trainer.

A short training whose learning rate rises from far too low to far too high. Where its loss falls fastest, and where it turns, suggests a
learning rate. A suggestion is a starting point: it knows nothing of the length of the training that it is for, nor of its schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from noisescale.errors import ConfigError, check_choice, check_count, check_number

__all__ = ["RAMPS", "RangeOptions", "Suggestions", "has_diverged", "smoothed", "suggest"]

RAMPS = ("exponential", "linear")

SHARES = (0.1, 0.9)
"""The bounds for `scheduler=cyclic`: where so much of the whole fall of the loss is done."""


@dataclass(frozen=True)
class RangeOptions:
    """How the learning rate rises.

    Args:
        lowest, highest: the first and the last learning rate, of the first parameter group; the others keep their ratio to it.
        updates: how many there are in between, at least 20, at the effective batch size.
        ramp: exponential: lr_k = lowest (highest/lowest)^(k/(n-1)); linear: lr_k = lowest + (highest - lowest) k/(n-1).
        smoothing: the width of the window that the losses are averaged over, in parts of the test: the standard deviation of a Gaussian
            weight in the number of the update, in (0, 0.2].
        diverged_at: the test ends where the smoothed loss is above so many times its lowest value, or nan or inf; above 1.

    Raises:
        ConfigError: a value is out of its range.
    """

    lowest: float = 1e-5
    highest: float = 10.0
    updates: int = 200
    ramp: str = "exponential"
    smoothing: float = 0.02
    diverged_at: float = 4.0

    def __post_init__(self) -> None:
        check_number("lowest", self.lowest, above=0, unit="parameter units")
        check_number("highest", self.highest, above=0, unit="parameter units")
        if self.highest <= self.lowest:
            raise ConfigError("highest", self.highest, f"must be above lowest={self.lowest:g}")
        check_count("updates", self.updates, at_least=20, at_most=10**6, unit="updates")
        check_choice("ramp", self.ramp, RAMPS)
        check_number("smoothing", self.smoothing, above=0, at_most=0.2)
        check_number("diverged_at", self.diverged_at, above=1, at_most=1e6)

    @property
    def width(self) -> float:
        """The width of the smoothing in updates, at least 2."""
        return max(2.0, self.smoothing * self.updates)

    def rate(self, update: int) -> float:
        """The learning rate of an update, 0 to `updates` - 1."""
        x = update / (self.updates - 1)
        if self.ramp == "linear":
            return self.lowest + (self.highest - self.lowest) * x
        return float(self.lowest * (self.highest / self.lowest) ** x)


# -- what the losses say ------------------------------------------------------------------------------------------------------


def smoothed(losses: Sequence[float], width: float) -> list[float]:
    """sum_j w_(k-j) loss_j / sum_j w_(k-j), w_d = exp(-d^2/(2 width^2)): a mean over both sides, which does not lag as a running mean does.

    Args:
        losses: finite, one per update.
        width: in updates, > 0.
    """
    reach = max(1, math.ceil(3 * width))
    weights = [math.exp(-0.5 * (d / width) ** 2) for d in range(-reach, reach + 1)]
    result = []
    for k in range(len(losses)):
        pairs = [(weights[j - k + reach], losses[j]) for j in range(max(0, k - reach), min(len(losses), k + reach + 1))]
        result.append(math.fsum(w * loss for w, loss in pairs) / math.fsum(w for w, _ in pairs))
    return result


def has_diverged(losses: Sequence[float], limit: float, window: int = 5) -> bool:
    """Whether the test ends: the last loss is nan or inf, or the mean of the last `window` is above `limit` times the lowest such mean."""
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < 2 * window:
        return False
    means = [math.fsum(losses[k - window : k]) / window for k in range(window, len(losses) + 1)]
    return means[-1] > limit * min(means) and means[-1] > means[0]


@dataclass(frozen=True)
class Suggestions:
    """Learning rates that a range test suggests; nan where the loss says nothing.

    Args:
        steepest: where the smoothed loss falls fastest, d loss / d log lr, before its minimum.
        valley: the middle, in log lr, of the longest stretch on which the smoothed loss falls, as in fastai.
        tenth: a tenth of the rate of the lowest smoothed loss.
        cyclic: (lowest, highest) for `scheduler=cyclic`: where 10 % and 90 % of the fall to the minimum are done.
        minimum: the rate of the lowest smoothed loss, which is too high to train with.
        fall: by how much the smoothed loss falls, relatively; 0 if nothing was learned.
    """

    steepest: float
    valley: float
    tenth: float
    cyclic: tuple[float, float]
    minimum: float
    fall: float

    def named(self) -> dict[str, float]:
        """Name -> learning rate."""
        return {"steepest": self.steepest, "valley": self.valley, "minimum/10": self.tenth}


CHANCE = 6
"""The highest and the lowest of some hundred smoothed losses differ by less than so many standard deviations if nothing is learned."""

NOTHING = Suggestions(math.nan, math.nan, math.nan, (math.nan, math.nan), math.nan, 0.0)


def suggest(rates: Sequence[float], losses: Sequence[float], width: float, least_fall: float = 0.05) -> Suggestions:
    """The suggestions of a range test, with all slopes and middles taken in log lr, whatever the ramp.

    Args:
        rates: increasing.
        losses: after the update with each rate; what follows the first that is not finite is left out.
        width: of the smoothing, in updates.
        least_fall: the smallest relative fall of the smoothed loss that counts; with less, or with what may be chance, nothing is
            suggested.

    Sources: Smith 1506.01186 (the test; bounds for a cycle); fastai's lr_find (valley; minimum/10).
    """
    finite = next((k for k, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    if finite < 10:
        return NOTHING
    logs, curve = [math.log(rate) for rate in rates[:finite]], smoothed(losses[:finite], width)
    lowest = min(range(finite), key=lambda k: curve[k])
    top = max(range(lowest + 1), key=lambda k: curve[k])  # before the minimum, the loss may rise by chance at first
    fall = (curve[top] - curve[lowest]) / abs(curve[top]) if curve[top] else 0.0
    if lowest - top < 4 or fall < least_fall or curve[top] - curve[lowest] < CHANCE * _noise(losses[: lowest + 1], width):
        return NOTHING
    steepest = min(range(top + 1, lowest), key=lambda k: (curve[k + 1] - curve[k - 1]) / (logs[k + 1] - logs[k - 1]))
    first, last = _longest_fall(curve)
    done = [next(k for k in range(top, finite) if curve[top] - curve[k] >= share * (curve[top] - curve[lowest])) for share in SHARES]
    middle = math.exp(0.5 * (logs[first] + logs[last]))
    bounds = (rates[done[0]], rates[done[1]])
    return Suggestions(rates[steepest], middle, rates[lowest] / 10.0, bounds, rates[lowest], fall)


def _noise(losses: Sequence[float], width: float) -> float:
    """The standard deviation of the smoothed loss from batch to batch: s / sqrt(2 sqrt(pi) width), 2 s^2 = mean (loss_k - loss_(k-1))^2."""
    steps = [(b - a) ** 2 for a, b in pairwise(losses)]
    return math.sqrt(math.fsum(steps) / len(steps) / 2 / (2 * math.sqrt(math.pi) * width)) if steps else 0.0


def _longest_fall(curve: Sequence[float]) -> tuple[int, int]:
    """(first, last) of the longest stretch of falling values: each is below the one before."""
    best, start = (0, 0), 0
    for k in range(1, len(curve) + 1):
        if k == len(curve) or curve[k] >= curve[k - 1]:
            if k - 1 - start > best[1] - best[0]:
                best = (start, k - 1)
            start = k
    return best

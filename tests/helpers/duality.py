"""The noise of a dual and its wave, computed independently, and how far off a number is."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import settings

from noisescale import schedules
from noisescale.plans.duality import CyclicBatch, Matched
from noisescale.plans.plan import Update

many = settings(max_examples=250)

CIFAR = 50_000
"""Number of training examples of CIFAR-10 and CIFAR-100."""

POWER = {"sgd": 1.0, "adaptive": 0.5}
"""The power of n(B) in the noise of each rule."""

TIGHT = 1e-12
"""The largest relative error of a noise that rounding may cause."""

SQUARE = CyclicBatch(128, 5, wave="square", rule="sgd", match="ratio")
"""The cyclic batch of Jastrzebski et al.: 128 and 640, for five epochs each."""


def n_of(match: str, num_examples: int, size: int) -> float:
    """N/B - 1 or N/B, computed with exact fractions."""
    return float(Fraction(num_examples, size) - (match == "exact"))


def wave_at(strategy: Matched, epoch: float) -> float:
    """c(t), the wave of a cyclic batch; 1 for a dual."""
    if not isinstance(strategy, CyclicBatch):
        return 1.0
    up, down, mode, gamma = strategy.step_size_up, strategy.step_size_down, strategy.mode, strategy.gamma
    return schedules.Cyclic(up, down, mode, gamma, strategy.base_factor, wave=strategy.wave)(epoch)


def whole(update: Update) -> bool:
    return update.effective_batch_size == update.planned_batch_size


def off(found: float, wanted: float) -> float:
    """The relative error; infinite if `wanted` is 0 and `found` is not."""
    return abs(found - wanted) / abs(wanted) if wanted else math.inf if found else 0.0

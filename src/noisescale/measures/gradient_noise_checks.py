"""Whether a plan lets the gradient noise scale be measured, often enough for a batch that goes by it, and how often it could be told."""

from __future__ import annotations

import math
from typing import NamedTuple

from pytorch_lightning.utilities import rank_zero_warn

from noisescale.plans.adaptive import GRADIENT_NOISE_SCALE
from noisescale.plans.checks import check_decay_of_an_interval
from noisescale.plans.plan import Plan
from noisescale.plans.trainer_limits import stretches_of_every_size

__all__ = ["Counts", "check_what_the_plan_goes_by", "say_if_nothing_can_be_measured"]

ENOUGH = 4
"""Measurements in an epoch, for a plan that goes by them."""


class Counts(NamedTuple):
    """After how many measurements B_simple could be told.

    Args:
        measured: all.
        bounded: those after which its interval was bounded.
        unknown: those after which not even its lower end was known.
    """

    measured: int = 0
    bounded: int = 0
    unknown: int = 0

    def with_interval(self, low: float, high: float) -> Counts:
        """The counts after one more measurement."""
        return Counts(self.measured + 1, self.bounded + math.isfinite(high), self.unknown + math.isinf(low))

    def in_words(self) -> str:
        """What to say at the end of a training; empty if most measurements have told B_simple."""
        if self.bounded >= self.measured / 2:
            return ""
        open_above = f"nothing bounded B_simple from above after {self.measured - self.bounded} of {self.measured} measurements"
        why = "because |G|^2 was lost in the noise: read noise/gns_low, `at least`"
        unknown = f"; after {self.unknown} not even that was known, because there were too few, or tr(Sigma) jumped" if self.unknown else ""
        return f"{open_above}, {why}{unknown}. More pieces, larger batches or a decay nearer to 1 tell more"


def say_if_nothing_can_be_measured(plan: Plan, every: int) -> None:
    """Warn if every update that is measured, one in `every`, is a single piece."""
    sizes = (stretch.effective_batch_size for stretch in stretches_of_every_size(plan))
    if plan.world_size == 1 and all(max(plan.ways_to_cut(size)) < 2 for size in sizes):
        here = "GradientNoiseScale measures nothing, because every update is a single piece"
        rank_zero_warn(
            f"{here}: BatchSizeScheduler(split_every={every}) cuts one in {every} in two"
            if plan.split_every is None
            else f"{here}, and none of them can be cut in two, for batch norm or its ghost batches"
        )


def check_what_the_plan_goes_by(plan: Plan, every: int, decay: float) -> None:
    """Raise `ConfigError` if a batch goes by averages that have no interval; warn if an epoch has fewer than four measurements."""
    if GRADIENT_NOISE_SCALE not in plan.monitors:
        return
    check_decay_of_an_interval(decay)
    size = plan.choice_at(0.0).size
    updates = max(1, plan.num_examples // size)
    if updates < ENOUGH * every:
        rank_zero_warn(
            f"GradientNoiseScale: an epoch at B = {size} has {updates} updates, of which one in {every} is measured: the batch goes "
            f"by few measurements; every_n_updates={max(1, updates // ENOUGH)} gives {min(updates, ENOUGH)} an epoch or more"
        )

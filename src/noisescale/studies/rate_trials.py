"""Short trainings with several learning rates, each annealed to zero, which say more than a range test: that one anneals nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.lean import LeanCallback
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.plans.strategies import Fixed
from noisescale.progress import Progress
from noisescale.schedules import Cosine
from noisescale.studies.facts import Facts
from noisescale.studies.measured import RateTrial
from noisescale.studies.training import Training

__all__ = ["candidates", "rate_trials"]

STEP = math.sqrt(10.0)
"""Ratio of two neighbouring candidates."""


def candidates(lowest: float, highest: float) -> list[float]:
    """lowest, lowest sqrt(10), lowest 10, ..., below `highest`: from a suggestion of the range test up to where it diverged."""
    count = max(1, math.ceil(math.log(highest / lowest) / math.log(STEP)))
    return [lowest * STEP**k for k in range(count)]


class _Last(LeanCallback):
    """The loss on the fixed examples after the last update."""

    def __init__(self, fixed: FixedExamples, updates: int) -> None:
        self.fixed, self.updates = fixed, updates
        self.loss = math.inf

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.updates and math.isinf(self.loss):
            found = self.fixed.loss(trainer, pl_module)
            self.loss = found if math.isfinite(found) else math.inf


def rate_trials(
    training: Training,
    facts: Facts,
    rates: Sequence[float],
    size: int,
    updates: int,
    seeds: int,
    progress: Progress | None = None,
) -> tuple[RateTrial, ...]:
    """Trainings from the weights of the module with each learning rate, decayed by a cosine to 0 at the last update.

    Args:
        training, facts: the training; the weights of its module are afterwards what they were.
        rates: learning rates of the first parameter group; the others keep their ratio to it.
        size: B, in examples.
        updates: of each training.
        seeds: trainings with each rate, which differ in the order of the examples.
        progress: is called with the share of the trainings that are done.
    """
    fixed = FixedExamples(4096, training.seed, weight=training.scheduler.get("weight"))
    schedule = Cosine(T_max=updates * size / facts.num_examples)
    losses: dict[float, list[float]] = {rate: [] for rate in rates}
    for number, (seed, rate) in enumerate((seed, rate) for seed in range(seeds) for rate in rates):
        last = _Last(fixed, updates)
        if progress is not None:
            progress(number / (seeds * len(rates)), f"B = {size}, lr {rate:.2g}, seed {seed}")
        with training.left_as_it_was():
            scaled = replace(training, rate=training.rate * rate / facts.lr)
            scaled.fit(Fixed(size=size, last="carry"), schedule, [last], seed=training.seed + seed, max_steps=updates)
        losses[rate].append(last.loss)
    return tuple(RateTrial(rate, updates, tuple(found)) for rate, found in losses.items())

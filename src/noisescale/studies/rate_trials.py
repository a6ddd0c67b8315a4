"""Short trainings with several learning rates and the schedule of the training, which a range test does not have: that anneals nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.lean import LeanCallback
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.plans.strategies import Fixed
from noisescale.progress import Progress
from noisescale.schedules import Schedule
from noisescale.studies.facts import Facts
from noisescale.studies.measured import RateTrial
from noisescale.studies.training import Training

__all__ = ["Hastened", "candidates", "rate_trials", "short_training"]

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


@dataclass(frozen=True)
class Hastened(Schedule):
    """s(t speed): a whole schedule, its warm-up included, in a shorter time.

    Args:
        schedule: with its horizon.
        speed: length of the schedule / length of the training that has it.
    """

    schedule: Schedule
    speed: float

    def __call__(self, epoch: float) -> float:
        return math.prod(self.parts(epoch))

    def parts(self, epoch: float) -> tuple[float, float]:
        return self.schedule.parts(epoch * self.speed)


def short_training(training: Training, facts: Facts, rate: float, size: int, updates: int, seed: int, fixed: FixedExamples) -> float:
    """The loss after a training from the weights of the module, with the whole schedule and warm-up in a few updates; inf if it diverged.

    Args:
        training, facts: the training; the weights of its module are afterwards what they were.
        rate: learning rate of the first parameter group, before the schedule; the others keep their ratio to it.
        size: B, in examples.
        updates: its length.
        seed: the number of the seed.
        fixed: what the loss is evaluated on.
    """
    schedule = training.schedule.with_horizon(training.epochs)
    last = _Last(fixed, updates)
    with training.left_as_it_was():
        scaled = replace(training, rate=training.rate * rate / facts.lr)
        hastened = Hastened(schedule, training.epochs * facts.num_examples / (updates * size))
        scaled.fit(Fixed(size=size, last="carry"), hastened, [last], seed=training.seed + seed, max_steps=updates)
    return last.loss


def rate_trials(
    training: Training,
    facts: Facts,
    rates: Sequence[float],
    size: int,
    updates: int,
    seeds: int,
    fixed: FixedExamples,
    progress: Progress | None = None,
    may_begin: Callable[[float], bool] | None = None,
) -> tuple[RateTrial, ...]:
    """Short trainings from the weights of the module with each learning rate, see `short_training`.

    Args:
        rates: learning rates of the first parameter group.
        updates: of each training.
        seeds: trainings with each rate, which differ in the order of the examples.
        progress: is called with the share of the trainings that are done.
        may_begin: called before each training with the seconds of the one before: whether there is time for it. A seed that not all rates
            have is left out of the result, which is empty without a whole seed.
    """
    losses: list[list[float]] = []
    seconds = 0.0
    for number, (seed, rate) in enumerate((seed, rate) for seed in range(seeds) for rate in rates):
        if may_begin is not None and not may_begin(seconds):
            break
        if progress is not None:
            progress(number / (seeds * len(rates)), f"B = {size}, lr {rate:.2g}, seed {seed}")
        began = time.perf_counter()
        losses += [[]] if len(losses) == seed else []
        losses[seed].append(short_training(training, facts, rate, size, updates, seed, fixed))
        seconds = time.perf_counter() - began
    whole = [each for each in losses if len(each) == len(rates)]
    return tuple(RateTrial(rate, updates, of_rate) for rate, of_rate in zip(rates, zip(*whole, strict=True), strict=True)) if whole else ()

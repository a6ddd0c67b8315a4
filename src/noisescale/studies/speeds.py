"""How many examples per second a training has with several batch sizes, measured by training with each of them in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pytorch_lightning as pl

from noisescale.errors import check_number
from noisescale.execution.lean import LeanCallback
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.plans.strategies import Fixed
from noisescale.progress import Progress
from noisescale.schedules import Constant
from noisescale.studies.measured import Speed
from noisescale.studies.training import Training

__all__ = ["evaluation_of", "speeds_of"]

ROUNDS = 3
"""Every size has a turn in each round, so that what else a machine does meets all of them."""

WARM = 2
"""Updates that are not timed: the first ones allocate memory and choose kernels."""


FEW, MORE, MOMENT = 64, 1024, 0.1
"""Examples of the evaluations that are timed; the larger one is left out if the smaller one takes longer than a moment, in seconds."""


class _Clock(LeanCallback):
    """Times the updates after the first few, and ends the training when the time is up, but not before three updates were timed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.updates = 0
        self.began = self.ended = 0.0
        self._done = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._done:  # inside an update
            return
        self._done = trainer.global_step
        if trainer.strategy.root_device.type == "cuda":
            import torch

            torch.cuda.synchronize(trainer.strategy.root_device)
        now = time.perf_counter()
        if trainer.global_step == WARM:
            self.began = now
        elif trainer.global_step > WARM:
            self.updates, self.ended = trainer.global_step - WARM, now
            if now - self.began >= self.seconds and self.updates >= 3:
                trainer.should_stop = True


def speeds_of(
    training: Training,
    sizes: Sequence[int],
    seconds: float,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
    may_begin: Callable[[float], bool] | None = None,
) -> tuple[tuple[Speed, ...], float]:
    """The speeds of a training with several batch sizes, and the seconds that it takes to start one.

    A speed is that of whole updates, data and accumulation included, but without validation. The weights of the module are afterwards what
    they were.

    Args:
        training: the training.
        sizes: batch sizes, in examples.
        seconds: to be spent on updates in all, > 0; a turn takes at least five updates, however long they take.
        rounds: turns of each size.
        progress: is called with the share of the turns that have been taken.
        may_begin: called before each turn with the seconds that it is expected to take: whether there is time for it. The turn of the
            smallest size is always taken; sizes that had none are left out of the result.
    """
    check_number("seconds", seconds, above=0.0)
    found: dict[int, list[float]] = {size: [] for size in sizes}
    starts: list[float] = []
    turns = [size for _ in range(rounds) for size in sizes]
    with training.left_as_it_was():
        for number, size in enumerate(turns):
            known = next((of_size for of_size in reversed(found.values()) if of_size), None)  # that of the largest size so far
            if known is not None and may_begin is not None and not may_begin(starts[-1] + (WARM + 3) * size / known[-1]):
                break
            if progress is not None:
                progress(number / len(turns), f"B = {size}")
            clock, began = _Clock(seconds / len(turns)), time.perf_counter()
            training.fit(Fixed(size=size, last="carry"), Constant(), [clock])
            spent = clock.ended - clock.began
            starts.append(time.perf_counter() - began - spent)
            found[size].append(clock.updates * size / spent)
    return tuple(Speed(size, median(each), min(each), max(each)) for size, each in found.items() if each), median(starts)


class _Evaluations(LeanCallback):
    """Times evaluations of the loss before the first update, on few examples, and on more if those were fast."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.found: dict[int, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        for examples in (FEW, FEW, MORE):  # the first one counts only if it is slow: it allocates memory
            if any(seconds > MOMENT for seconds in self.found.values()):
                break
            counted = min(examples, loader.plan.num_examples)
            fixed = FixedExamples(examples, self.training.seed, weight=self.training.scheduler.get("weight"))
            began = time.perf_counter()
            fixed.loss(trainer, pl_module)
            self.found[counted] = time.perf_counter() - began


def evaluation_of(training: Training, size: int) -> tuple[float, float]:
    """(seconds, seconds per example) of an evaluation of the loss of a training, see `FixedExamples`; the module is left as it was.

    An update with `size` examples is trained after it.
    """
    timed = _Evaluations(training)
    with training.left_as_it_was():
        training.fit(Fixed(size=size, last="carry"), Constant(), [timed], max_steps=1)
    (few, seconds), (more, longer) = min(timed.found.items()), max(timed.found.items())
    each = max((longer - seconds) / (more - few), 0.0) if more > few else seconds / few
    return max(seconds - each * few, 0.0), each

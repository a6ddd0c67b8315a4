"""Carry out a learning-rate range test: at the effective batch size of a training, which is left as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info

from noisescale.errors import ConfigError
from noisescale.execution.checkpoint_io import SafeCheckpointIO, whole_checkpoint
from noisescale.execution.fork import Fork, ForkedCheckpointIO, trunk_of
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.measures.observed import MicroBatchSeen, weight_of
from noisescale.measures.range_test import RangeOptions, Suggestions, has_diverged, suggest
from noisescale.plans.strategies import BatchStrategy
from noisescale.progress import Progress, progress_of
from noisescale.schedules import Constant, warmup_and_rest
from noisescale.studies.training import Training, strategy_of

__all__ = ["RangeFound", "range_test", "run_range_test"]


@dataclass(frozen=True)
class RangeFound:
    """What a range test has shown.

    Args:
        rates: learning rates of the first parameter group, increasing.
        losses: of the batch after the update with each rate.
        suggestions: see `Suggestions`.
        size: B, examples per update.
        num_examples: N.
        width: of the smoothing, in updates.
        diverged: whether the test ended before its last update.
        ratios: of the learning rate of each parameter group to that of the first one, which they keep.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestions: Suggestions
    size: int
    num_examples: int
    width: float
    diverged: bool
    ratios: tuple[float, ...] = (1.0,)


def range_test(
    module: Any,
    data: Any,
    batch: int | BatchStrategy,
    *,
    seed: int = 0,
    ckpt_path: str | Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> RangeFound:
    """A learning-rate range test: a short training whose rate rises from far too low to far too high, and what its losses suggest.

    Every update has exactly the effective batch, in as many micro-batches as `scheduler={"max_micro_batch_size": ...}` needs. The rates are
    those of the first parameter group of the module's optimizer; the others keep their ratio to it. A learning-rate scheduler of the module
    is left out of the test.

    Args:
        module: a LightningModule, whose own learning rate does not matter; afterwards it has the weights that it had before.
        data: its LightningDataModule, or a DataLoader.
        batch: the batch size, or a strategy of noisescale.plans, of which the first batch size counts.
        seed: of the order of the examples and of the random numbers.
        ckpt_path: a checkpoint of a training with `BatchSizeScheduler` to start from, in place of the weights of the module.
        scheduler: further arguments of `BatchSizeScheduler`, such as max_micro_batch_size or weight.
        trainer: arguments of Lightning's Trainer, such as accelerator or precision.
        progress: is called with the share of the updates that are done, 0 to 1. None: a bar on a terminal.
        options: of `RangeOptions`: lowest, highest, updates, ramp, smoothing, diverged_at.

    Raises:
        ConfigError: a value cannot be used; the module has several optimizers, or its first parameter group has no rate above 0.

    Source: Smith 1506.01186. Not to be confused with Lightning's Tuner.lr_find, which searches with the micro-batches of the DataLoader.
    """
    training = Training(module, data, strategy_of(batch), Constant(), 1, seed, scheduler or {}, trainer or {})
    chosen = RangeOptions(**options)
    with progress_of("range test", progress) as shown:
        return run_range_test(training, chosen, None if ckpt_path is None else Path(ckpt_path), shown)


def run_range_test(
    training: Training, options: RangeOptions, ckpt_path: Path | None = None, progress: Progress | None = None
) -> RangeFound:
    """The work of `range_test`."""
    start, done, seed = 0.0, 0, training.seed
    if ckpt_path is not None:
        trunk = trunk_of(SafeCheckpointIO().load_checkpoint(whole_checkpoint(ckpt_path)), ckpt_path)
        start, done, seed = trunk.epoch, trunk.step, trunk.seed
    warmup, factor = warmup_and_rest(training.schedule.with_horizon(training.epochs), start)
    watch, fork = _Watch(options, progress), Fork()
    guarded = training.same_run is not None and ckpt_path is not None
    with training.left_as_it_was():
        training.fit(
            _Held(training.strategy, start, factor, warmup, last="carry", micro_batch_size=training.strategy.micro_batch_size),
            None,
            [watch],
            seed=seed,
            ckpt_path=ckpt_path,
            io=ForkedCheckpointIO(fork, guarded) if ckpt_path is not None else None,
            same_run=fork.guard(training.same_run) if guarded and training.same_run is not None else None,
            max_steps=done + options.updates,
        )
    rates = tuple(options.rate(k) for k in range(len(watch.losses) - 1))
    losses, width = tuple(watch.losses[1:]), options.width
    found, ended = suggest(rates, losses, width), len(watch.losses) < options.updates
    return RangeFound(rates, losses, found, watch.size, watch.num_examples, width, ended, tuple(watch.ratios))


@dataclass(frozen=True)
class _Held(BatchStrategy):
    """The batch size that a strategy has at one time, at all times."""

    strategy: BatchStrategy
    epoch: float
    factor: float
    warmup: float

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return self.strategy(self.epoch, self.factor, num_examples, self.warmup).size

    def check(self, num_examples: int) -> None:
        self.strategy.check(num_examples)

    def constant_until(self, epoch: float) -> float:
        return math.inf


class _Watch(LeanCallback):
    """Sets the learning rate of each update, and keeps the loss of its whole batch, before the update; ends where that has diverged."""

    def __init__(self, options: RangeOptions, progress: Progress | None) -> None:
        self.options, self.progress = options, progress
        self.losses: list[float] = []
        self.size = self.num_examples = 0
        self.ratios: list[float] = []
        self._window: list[MicroBatchSeen] = []
        self._step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the module's schedulers: they would only change rates that the test sets before each update."""
        for config in trainer.lr_scheduler_configs:
            rank_zero_info(f"note: {type(config.scheduler).__name__} of the module is left out of the range test, which sets the rate")
        trainer.strategy.lr_scheduler_configs = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A scheduler may have changed the rates already, and notes what they were.
        rates = [float(group.get("initial_lr", group["lr"])) for group in trainer.optimizers[0].param_groups]
        if not rates[0] > 0:
            problem = "the other parameter groups keep their ratio to the first one, whose rate must be above 0"
            raise ConfigError("lr", rates[0], problem, "put a group with a rate above 0 first, and freeze by requires_grad=False")
        self.ratios, self._step = [rate / rates[0] for rate in rates], trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._window:
            rate = self.options.rate(min(len(self.losses), self.options.updates - 1))
            for group, ratio in zip(trainer.optimizers[0].param_groups, self.ratios, strict=True):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate * ratio)
                else:
                    group["lr"] = rate * ratio

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, PlannedLoader)
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        self._window.append(MicroBatchSeen(loader.handed_out, weight_of(trainer), loss))
        if trainer.global_step == self._step:  # inside an update
            return
        self._step = trainer.global_step
        window, self._window = self._window, []
        parts = [(micro.share, float(micro.loss)) for micro in window if micro.share and micro.loss is not None]
        share = sum(share for share, _ in parts)
        k = int(trainer.accumulate_grad_batches)
        self.losses.append(k * sum(share * loss for share, loss in parts) / share if share else math.nan)
        assert loader.current is not None
        self.size, self.num_examples = loader.current.update.effective_batch_size, loader.plan.num_examples
        if self.progress is not None:
            rate = self.options.rate(min(len(self.losses), self.options.updates) - 1)
            self.progress(len(self.losses) / self.options.updates, f"B = {self.size}, lr {rate:.1e}")
        if has_diverged(self.losses, self.options.diverged_at):
            trainer.should_stop = True

"""Validate after updates of the plan, where Lightning would count micro-batches."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.compatibility import untyped
from noisescale.execution.loader import PlannedLoader
from noisescale.plans.plan import Cursor
from noisescale.plans.validations import check_first_epoch, check_val_check_interval, validated_updates

__all__ = ["ValidationTimes", "check_interval", "planned_interval"]


class ValidationTimes(int):
    """`Trainer.val_check_interval` for a plan: the integer 0, except that `i % times` is 0 where the plan is validated, and 1 elsewhere.

    Lightning validates after a micro-batch if `count % val_check_interval == 0`, where it counts the micro-batches of the epoch or of the
    whole run. The memory limit would then decide when to validate, and an interval that is longer than a later, shorter epoch would end
    the run. So the count is ignored here, and the position of the loader decides. As 0, it is neither 1.0, which Lightning takes for
    "at the end of each epoch", nor longer than any epoch.

    Args:
        interval: see `plans.validations.validated_updates`.
        over_epochs: count the updates of the whole run instead of those of each epoch; `interval` is then a whole number.
        loader: the planned loader.
    """

    def __new__(cls, interval: float, over_epochs: bool, loader: PlannedLoader) -> ValidationTimes:
        times = super().__new__(cls, 0)
        times.interval, times._over_epochs, times._loader = interval, over_epochs, loader
        times._epoch = None
        return times

    interval: float
    _over_epochs: bool
    _loader: PlannedLoader
    _epoch: tuple[Cursor, Collection[int]] | None  # where the epoch starts, and the updates after which it is validated

    def due(self) -> bool:
        """Whether the run is validated where it is, between two updates."""
        loader = self._loader
        if loader.micro_batches_done:
            return False
        if self._over_epochs:
            return loader.cursor.step % int(self.interval) == 0
        start = loader.epoch_start
        if self._epoch is None or self._epoch[0] != start:
            equal = groupby(loader.sizes_of_epoch(), key=lambda stretch: stretch.effective_batch_size)
            sizes = [(sum(stretch.updates for stretch in group), size) for size, group in equal]
            self._epoch = start, validated_updates(sizes, self.interval)
        return loader.cursor.step - start.step in self._epoch[1]

    def __rmod__(self, other: int) -> int:
        return 0 if self.due() else 1

    def __repr__(self) -> str:
        return f"ValidationTimes({self.interval!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.interval, self._over_epochs, self._loader)


def planned_interval(trainer: pl.Trainer, loader: PlannedLoader) -> float:
    """The trainer's `val_check_interval`, with updates and examples where Lightning has micro-batches; 1.0 stays the end of each epoch.

    Raises:
        ConfigError: see `plans.validations.check_val_check_interval`.
    """
    every = trainer.check_val_every_n_epoch
    seconds = getattr(trainer, "_val_check_time_interval", None)
    interval: Any = trainer.val_check_interval if seconds is None else f"{seconds:g} s"
    check_val_check_interval(interval, every)
    return interval if interval == 1.0 and isinstance(interval, float) else ValidationTimes(interval, every is None, loader)


def check_interval(trainer: pl.Trainer, loader: PlannedLoader) -> None:
    """Raise `ConfigError` if the first epoch of the run is shorter than its planned `val_check_interval`."""
    times = untyped(trainer).val_check_interval
    if isinstance(times, ValidationTimes) and untyped(trainer).enable_validation and loader.cursor.step == 0:
        check_first_epoch(times.interval, trainer.check_val_every_n_epoch, sum(stretch.updates for stretch in loader.sizes_of_epoch()))

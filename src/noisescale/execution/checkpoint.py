"""Lightning's checkpoint callback, which also saves between two ends of epochs, in an order that a kill cannot break."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from noisescale.execution.compatibility import untyped
from noisescale.execution.kept_best import KeptBest
from noisescale.execution.lean import LeanCallback
from noisescale.plans.checks import check_saving_intervals

__all__ = ["Checkpoint", "in_saving_order"]


class Checkpoint(LeanCallback, ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with the same arguments and these.

    Callbacks that save the best by a metric come first, and the one that saves the last checkpoint after them, so that the last checkpoint
    knows the best: see `in_saving_order` and `KeptBest`.

    Args:
        every_n_updates: save after every n updates of the run, too; None: not so.
        every_n_minutes: save once n minutes have passed since this callback saved last, at the end of an update, too; None: not so. With
            several devices, the clock of the first one decides.
        others: of `ModelCheckpoint`. When it saves there is not changed.

    Raises:
        ConfigError: an interval that is not a positive number, or with a `monitor`: the best by a metric is saved where that is known.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        *,
        every_n_updates: int | None = None,
        every_n_minutes: float | None = None,
        **others: Any,
    ) -> None:
        check_saving_intervals(every_n_updates, every_n_minutes, monitor)
        super().__init__(dirpath, filename, monitor, **others)
        self.every_n_updates, self.every_n_minutes = every_n_updates, every_n_minutes
        self._best = KeptBest(self)
        self._step = 0
        self._clock = _SharedClock()

    # -- when -----------------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        untyped(trainer).callbacks = in_saving_order(untyped(trainer).callbacks)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._step = trainer.global_step
        self._clock.start(self._step)
        self._best.start(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        ModelCheckpoint.on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._step:  # inside an update
            return
        self._step = trainer.global_step
        if self._is_due(trainer):
            self.save_now(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if untyped(trainer).fast_dev_run or trainer.state.fn != TrainerFn.FITTING:
            return False
        if self.every_n_updates is not None and self._step % self.every_n_updates == 0:
            return True
        return self.every_n_minutes is not None and self._clock.has_passed(60 * self.every_n_minutes, self._step, trainer)

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save where the run is, to be called on all devices between two updates; changes nothing about the saves at ends of epochs."""
        saved_at = self._last_global_step_saved
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)
        self._last_global_step_saved = saved_at  # the end of an epoch after this update is saved again, because it has more to say

    # -- what -----------------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self._best.before_saving(trainer, filepath)
        super()._save_checkpoint(trainer, filepath)
        self._clock.start(trainer.global_step)
        if self.monitor is None and not self.save_weights_only:
            for other in untyped(trainer).checkpoint_callbacks:
                if isinstance(other, Checkpoint):
                    other._best.is_known(trainer)

    def _remove_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if not self._best.remove_later(trainer, filepath):
            super()._remove_checkpoint(trainer, filepath)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self._best.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(self._best.load(state_dict))


class _SharedClock:
    """Time since the last save, by the clock of the first device.

    One device looks at its clock after each update. Several would have to talk to each other for that, so the first one says after how many
    updates they look again: those of half of the time that is left, at the pace since the last save.
    """

    def __init__(self) -> None:
        self.start(0)

    def start(self, step: int) -> None:
        """Measure from here."""
        self._since, self._step, self._look_at = time.monotonic(), step, step + 1

    def has_passed(self, seconds: float, step: int, trainer: pl.Trainer) -> bool:
        """Whether `seconds` have passed after update `step`; the same on all devices."""
        elapsed = time.monotonic() - self._since
        if trainer.world_size == 1:
            return elapsed >= seconds
        if step < self._look_at:
            return False
        pace = (step - self._step) / max(elapsed, 1e-9)
        wait = 0 if elapsed >= seconds else max(1, int(pace * (seconds - elapsed) / 2))
        wait = trainer.strategy.broadcast(wait)
        self._look_at = step + wait
        return wait == 0


def in_saving_order(callbacks: Iterable[pl.Callback]) -> list[pl.Callback]:
    """The same callbacks; of those that save checkpoints first the best by a metric, then the last.

    A checkpoint contains what each of these callbacks takes for the best. A last checkpoint that is saved before the best one does not know
    that, and a run that is resumed from it overwrites the best with something worse.
    """
    callbacks = list(callbacks)
    saving = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    ordered = iter(sorted(saving, key=lambda callback: 2 if callback.monitor is None else 1 if callback.save_last else 0))
    return [next(ordered) if callback in saving else callback for callback in callbacks]

"""Stop a run whose loss is nan or inf."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import pytorch_lightning as pl
import torch

from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader

__all__ = ["StopOnDivergence", "TrainingDiverged"]


class TrainingDiverged(RuntimeError):
    """The loss became nan or inf.

    Args:
        step: the update with that loss, from 0.
        loss: the loss, nan or inf.
        lr: the learning rate of that update.
        last_good_step: the last update with a finite loss; None if there was none.
        last_good_loss: the loss of that last good update; None if there was none.
    """

    def __init__(self, step: int, loss: float, lr: float, last_good_step: int | None, last_good_loss: float | None) -> None:
        super().__init__(step, loss, lr, last_good_step, last_good_loss)
        self.step, self.loss, self.lr = step, loss, lr
        self.last_good_step, self.last_good_loss = last_good_step, last_good_loss

    def __str__(self) -> str:
        if self.last_good_step is None:
            good = "no update before it had a finite loss"
            cause = "the very first loss is not finite: check the inputs and the initial weights"
        else:
            good = f"last good update {self.last_good_step} (loss {self.last_good_loss:.4g})"
            cause = f"most likely lr={self.lr:g} is too large: lower optimizer.lr or add a warm-up"
        return f"training diverged: loss {self.loss} at update {self.step}; {good}; {cause}"


class StopOnDivergence(LeanCallback):
    """Raise `TrainingDiverged` on all devices, at most one update after the first loss that is nan or inf.

    On an accelerator the loss of an update is read only when the next update is done, so that no update has to wait for it.
    """

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._pending: tuple[int, float, SupportsFloat] | None = None
        self._last_good: tuple[int, float] | None = None
        self._steps = 0
        self._lr = math.nan

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._steps, self._losses = trainer.global_step, []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if isinstance(outputs, dict) and "loss" in outputs:
            loss = outputs["loss"]  # already divided by the number of micro-batches, so the sum is the mean
            loader = trainer.train_dataloader
            if isinstance(loader, PlannedLoader) and loader.weight == 0.0:
                loss = torch.zeros_like(loss)  # it adds nothing to the update, even if it is nan
            self._losses.append(loss)
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        losses, self._losses = self._losses, []
        if not losses:
            return
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        if trainer.world_size > 1:  # if the loss of one device is nan or inf, then so is the mean on all devices
            loss = trainer.strategy.reduce(loss.to(trainer.strategy.root_device, copy=True), reduce_op="mean")
        update: tuple[int, float, SupportsFloat] | None = (self._steps - 1, self._lr, _OnItsWay(loss) if loss.is_cuda else loss)
        if pl_module.device.type != "cpu":
            update, self._pending = self._pending, update
        if update is not None:
            self._raise_unless_finite(*update)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._raise_unless_finite(*pending)

    def _raise_unless_finite(self, step: int, lr: float, loss: SupportsFloat) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise TrainingDiverged(step, value, lr, *(self._last_good or (None, None)))
        self._last_good = step, value


class _OnItsWay:
    """A number that is copied from a GPU in the background: `float` waits for the copy, but not for the work that was queued after it."""

    def __init__(self, value: torch.Tensor) -> None:
        self._host = torch.empty((), dtype=value.dtype, pin_memory=True)
        self._host.copy_(value.detach(), non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(value.device))

    def __float__(self) -> float:
        self._copied.synchronize()
        return float(self._host)

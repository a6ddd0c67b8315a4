"""Checkpoints at chosen times of a training, after the last of which it ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader

__all__ = ["SavePoints"]


class SavePoints(LeanCallback):
    """Save at the end of the first update that reaches a time, for each of some times, and stop after the last.

    Args:
        points: time in epochs, examples seen / N -> the file.
    """

    def __init__(self, points: Mapping[float, Path]) -> None:
        self._left = sorted(points.items(), reverse=True)
        self._step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:  # inside an update
            return
        self._step = trainer.global_step
        loader = trainer.train_dataloader
        assert isinstance(loader, PlannedLoader)
        while self._left and loader.cursor.position >= self._left[-1][0] * loader.plan.num_examples:
            trainer.save_checkpoint(self._left.pop()[1], weights_only=False)
        if not self._left:
            trainer.should_stop = True

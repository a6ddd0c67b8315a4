"""A progress bar that is redrawn at fixed intervals of time."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from noisescale.errors import check_number
from noisescale.execution.lean import LeanCallback

__all__ = ["TimedProgressBar"]


class TimedProgressBar(LeanCallback, TQDMProgressBar):
    """Lightning's progress bar, redrawn at most once in `seconds`, because a small network makes a thousand updates per second.

    Args:
        seconds: time between two drawings of the training bar, at least 0; 0 draws it after every batch.
    """

    def __init__(self, seconds: float) -> None:
        check_number("seconds", seconds, at_least=0.0, unit="seconds")
        super().__init__()
        self.seconds = seconds
        self._next = -math.inf

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.monotonic()
        if now >= self._next or batch_idx + 1 == self.train_progress_bar.total:
            self._next = now + self.seconds
            TQDMProgressBar.on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx)

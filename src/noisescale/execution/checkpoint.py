"""Lightning's checkpoint callback, without the cost of its empty hooks."""

from __future__ import annotations

from pytorch_lightning.callbacks import ModelCheckpoint

from noisescale.execution.lean import LeanCallback

__all__ = ["Checkpoint"]


class Checkpoint(LeanCallback, ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, with the same arguments."""

    on_train_batch_end = ModelCheckpoint.on_train_batch_end

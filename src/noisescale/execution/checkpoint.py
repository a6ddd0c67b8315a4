"""Lightning's checkpoints, without the price of the hooks that they have not."""

from __future__ import annotations

from pytorch_lightning.callbacks import ModelCheckpoint

from noisescale.execution.lean import LeanCallback

__all__ = ["Checkpoint"]


class Checkpoint(LeanCallback, ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, argument for argument."""

    on_train_batch_end = ModelCheckpoint.on_train_batch_end

"""Where the last checkpoint of a run lies, and how it is saved at a place where a training has stopped."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from noisescale.execution.compatibility import untyped

__all__ = ["last_path", "leave_averages", "save_alone"]


def last_path(trainer: pl.Trainer, given: str | Path | None) -> Path:
    """`given`; None: last.ckpt in the folder of the trainer's checkpoint callback, or of default_root_dir/checkpoints."""
    if given is not None:
        return Path(given)
    folders = [getattr(callback, "dirpath", None) for callback in untyped(trainer).checkpoint_callbacks]
    folder = next((each for each in folders if each), None)
    return Path(folder if folder is not None else Path(trainer.default_root_dir) / "checkpoints") / "last.ckpt"


def leave_averages(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Give the module its own weights back, in place of the averaged ones that it has for the time of a validation."""
    averaging = getattr(pl.callbacks, "WeightAveraging", ())
    if untyped(trainer).validating:
        for callback in untyped(trainer).callbacks:
            if isinstance(callback, averaging):
                callback.on_validation_epoch_end(trainer, pl_module)


def save_alone(trainer: pl.Trainer, path: Path) -> None:
    """Save a checkpoint without the other processes, which may be gone; only the first one writes it."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    trainer.strategy.save_checkpoint(checkpoint, path)

"""How a training that ended without an error ended: its status, and the reason in words."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, Timer

from noisescale.callbacks import BatchSizeScheduler
from noisescale.errors import ConfigError
from noisescale.execution.checkpoint_io import SafeCheckpointIO, whole_checkpoint

__all__ = ["PLANS_END", "as_saved", "ending", "is_past_its_end", "nothing_left"]

PLANS_END = "the plan's end"
"""The reason of a run that was trained to its end."""


def ending(cfg: DictConfig, trainer: pl.Trainer, batches: BatchSizeScheduler) -> tuple[str, str]:
    """(status, reason) of a training after `fit`.

    `completed`: the plan was carried out to the end of its epochs, or early stopping has ended it. `stopped`: a limit has ended it before
    that, and it can be resumed with a higher one. A limit that reaches to the plan's end changes nothing.
    """
    assert batches.loader is not None
    plan, cursor = batches.plan, batches.loader.cursor
    if plan.epochs is not None and cursor.position >= plan.epochs * plan.num_examples:
        return "completed", PLANS_END
    if plan.max_updates is not None and cursor.step >= plan.max_updates:
        return "stopped", f"trainer.max_steps={plan.max_updates}"
    for callback in _callbacks(trainer):
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            limit = cfg.trainer.get("max_time")
            return "stopped", f"trainer.max_time={limit}" if limit is not None else "the time of a Timer among the callbacks is up"
    for callback in _callbacks(trainer):
        if isinstance(callback, EarlyStopping) and (said := callback.stopping_reason_message):
            return "completed", f"early stopping: {' '.join(said.split()).removesuffix(' Signaling Trainer to stop.')}"
    return "stopped", "a callback or the module has set trainer.should_stop"


def is_past_its_end(batches: BatchSizeScheduler) -> bool:
    """Whether a run has trained more than the plan allows; a limit that was lowered for its resuming does that."""
    assert batches.loader is not None
    plan, cursor = batches.plan, batches.loader.cursor
    updates, examples = plan.max_updates, None if plan.epochs is None else plan.epochs * plan.num_examples
    return (updates is not None and cursor.step > updates) or (examples is not None and cursor.position > examples)


def nothing_left(cfg: DictConfig, trainer: pl.Trainer, batches: BatchSizeScheduler) -> ConfigError:
    """The error for a checkpoint from which there is nothing left to train."""
    _, reason = ending(cfg, trainer, batches)
    assert batches.loader is not None
    limit = batches.plan.max_updates
    if limit is not None and batches.loader.cursor.step > limit:
        reason = f"trainer.max_steps={limit}"
    key = "ckpt_path" if cfg.get("resume") is None else "resume"
    if reason == PLANS_END:
        return ConfigError(key, cfg[key], f"is already at the end, epoch {trainer.current_epoch}", "raise epochs to go on")
    key_of_limit = reason.partition("=")[0]
    problem = f"is at update {trainer.global_step}, and {reason} allows no more"
    return ConfigError(key, cfg[key], problem, f"raise {key_of_limit} to go on")


def as_saved(cfg: DictConfig, module: pl.LightningModule, batches: BatchSizeScheduler) -> dict[str, float]:
    """Give the module the weights that the checkpoint of an ended training has, and return the metrics of the end of that training.

    They are what `fit` has loaded, except with averaging: the checkpoint has the average, and `fit` goes on with the weights themselves.
    """
    if cfg.averaging:
        path = whole_checkpoint(str(cfg.ckpt_path))
        module.load_state_dict(SafeCheckpointIO().load_checkpoint(path, map_location="cpu")["state_dict"])
    return {name: float(value) for name, value in batches.restored_metrics.items()}


def _callbacks(trainer: pl.Trainer) -> list[Any]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]

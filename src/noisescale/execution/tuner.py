"""Refuse a search of Lightning's Tuner while a plan decides batches and rates, and leave the trainer as before."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder

from noisescale.errors import ConfigError

__all__ = ["refuse_searches", "remove_searches"]

_SEARCHES: dict[type[pl.Callback], tuple[str, str, str]] = {
    LearningRateFinder: (
        "lr_find",
        "would search while the batch size changes as planned",
        "call noisescale.studies.range_test(module, datamodule, batch), which searches at the planned batch size",
    ),
    BatchSizeFinder: (
        "scale_batch_size",
        "would search with other batches than the plan's",
        'give BatchSizeScheduler(..., max_micro_batch_size="auto"), which runs the size that it returns',
    ),
}


def refuse_searches(trainer: pl.Trainer) -> None:
    """Raise `ConfigError` if a search is among the callbacks of `trainer`, where a Tuner puts its own for one fit."""
    for callback, kind in _searches(trainer):
        method, problem, remedy = _SEARCHES[kind]
        if _is_of_a_tuner(callback):
            raise ConfigError("tuner", method, problem, remedy)
        raise ConfigError("callbacks", type(callback).__name__, problem, remedy)


def remove_searches(trainer: Any) -> None:
    """Remove the search of a Tuner from the callbacks after an error, as the Tuner itself does only after a success."""
    left_over = [callback for callback, _ in _searches(trainer) if _is_of_a_tuner(callback)]
    if left_over:
        trainer.callbacks = [callback for callback in trainer.callbacks if callback not in left_over]


def _searches(trainer: Any) -> list[tuple[pl.Callback, type[pl.Callback]]]:
    return [(callback, kind) for callback in trainer.callbacks for kind in _SEARCHES if isinstance(callback, kind)]


def _is_of_a_tuner(callback: pl.Callback) -> bool:
    return bool(getattr(callback, "_early_exit", False))  # set by the Tuner, so that nothing is trained after the search

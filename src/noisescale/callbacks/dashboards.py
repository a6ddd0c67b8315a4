"""Scalars for loggers, over updates and over examples, and the TensorBoard layout that shows them together."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

__all__ = ["BY_EXAMPLES", "add_layout", "log_by_examples", "log_scalars"]

BY_EXAMPLES = "by_examples/"
"""Prefix of the tags whose step is examples seen."""

_CHARTS = {
    "loss": ["train/loss", "val/loss"],
    "accuracy": ["train/acc", "val/acc"],
    "learning rate": ["lr"],
    "batch size B": ["batch/effective"],
    "noise scale g": ["noise/g"],
}


def add_layout(trainer: pl.Trainer) -> None:
    """Give TensorBoard's custom-scalars page loss, accuracy, lr, B and g in one place, over updates and over examples."""
    layout = {
        "noisescale: over updates": {name: ["Multiline", [f"^{tag}$" for tag in tags]] for name, tags in _CHARTS.items()},
        "noisescale: over examples": {name: ["Multiline", [f"^{BY_EXAMPLES}{tag}$" for tag in tags]] for name, tags in _CHARTS.items()},
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_custom_scalars(layout)


def log_scalars(trainer: pl.Trainer, values: Mapping[str, float], step: int, examples_seen: int, wall_time: float) -> None:
    """Log `values` at `step`, and again under `by_examples/` at `examples_seen`, on all loggers of the trainer.

    Loggers other than TensorBoard have one clock, so they get examples_seen as a value beside the others.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_metrics({**values, "examples_seen": float(examples_seen)}, step=step)
        elif trainer.is_global_zero:
            _add(logger, values, step, wall_time)
    log_by_examples(trainer, values, examples_seen, wall_time)


def log_by_examples(trainer: pl.Trainer, values: Mapping[str, float], examples_seen: int, wall_time: float) -> None:
    """Log `values` under `by_examples/` at `examples_seen`, on TensorBoard alone."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            _add(logger, {BY_EXAMPLES + tag: value for tag, value in values.items()}, examples_seen, wall_time)


def _add(logger: TensorBoardLogger, values: Mapping[str, float], step: int, wall_time: float) -> None:
    """One event for all values: a fraction of the cost of one event each."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    logger.experiment._get_file_writer().add_summary(summary, step, wall_time)

"""Log scalars over updates and over examples, and lay them out in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from noisescale.execution.lean import use_fast_checksums

__all__ = ["BY_EXAMPLES", "Scalars", "add_layout", "log_by_examples", "log_scalars"]

BY_EXAMPLES = "by_examples/"
"""Prefix of the tags whose step is the number of examples seen."""

_CHARTS = {
    "loss": ["train/loss", "val/loss"],
    "accuracy": ["train/acc", "val/acc"],
    "learning rate": ["lr"],
    "batch size B": ["batch/effective"],
    "noise scale g": ["noise/g"],
}


def add_layout(trainer: pl.Trainer) -> None:
    """Show loss, accuracy, lr, B and g together on TensorBoard's custom-scalars page, once over updates and once over examples."""
    layout = {
        "noisescale: over updates": {name: ["Multiline", [f"^{tag}$" for tag in tags]] for name, tags in _CHARTS.items()},
        "noisescale: over examples": {name: ["Multiline", [f"^{BY_EXAMPLES}{tag}$" for tag in tags]] for name, tags in _CHARTS.items()},
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_custom_scalars(layout)


@dataclass(frozen=True, slots=True)
class Scalars:
    """The values to log for one update.

    Args:
        values: tag -> value.
        step: the number of the update, from 0.
        examples_seen: examples seen before the update.
        wall_time: when the update ended, in seconds since 1970.
    """

    values: Mapping[str, float]
    step: int
    examples_seen: int
    wall_time: float


def log_scalars(trainer: pl.Trainer, rows: Sequence[Scalars]) -> None:
    """Log the values of each row at its step, and in TensorBoard again under `by_examples/` at its examples_seen.

    Other loggers have only one step axis, so for them examples_seen is logged as one more value.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            if trainer.is_global_zero:
                _add(logger, "", ((row.values, row.step, row.wall_time) for row in rows))
                _add(logger, BY_EXAMPLES, ((row.values, row.examples_seen, row.wall_time) for row in rows))
        else:
            for row in rows:
                logger.log_metrics({**row.values, "examples_seen": float(row.examples_seen)}, step=row.step)


def log_by_examples(trainer: pl.Trainer, values: Mapping[str, float], examples_seen: int, wall_time: float) -> None:
    """Log `values` under `by_examples/` at `examples_seen`, in TensorBoard only."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            _add(logger, BY_EXAMPLES, [(values, examples_seen, wall_time)])


def _add(logger: TensorBoardLogger, prefix: str, points: Iterable[tuple[Mapping[str, float], int, float]]) -> None:
    """Write points (values, step, wall time), with one event for all values of a point, which costs a fraction of one event per value."""
    from tensorboard.compat.proto.event_pb2 import Event

    use_fast_checksums()
    writer = logger.experiment._get_file_writer()
    event, tags = Event(), tuple[str, ...]()
    for values, step, wall_time in points:
        if tuple(values) != tags:
            event, tags = Event(), tuple(values)
            for tag in tags:
                event.summary.value.add(tag=prefix + tag)
        for entry, value in zip(event.summary.value, values.values(), strict=True):
            entry.simple_value = value
        writer.add_event(event, step, wall_time)  # it serialises the event at once, so the event can be used again

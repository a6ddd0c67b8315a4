"""Scalars for loggers, over updates and over examples, and the TensorBoard layout that shows them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from noisescale.execution.lean import use_fast_checksums

__all__ = ["BY_EXAMPLES", "Scalars", "add_layout", "log_by_examples", "log_scalars"]

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


@dataclass(frozen=True, slots=True)
class Scalars:
    """What is logged of one update.

    Args:
        values: tag -> value.
        step: the update.
        examples_seen: before it.
        wall_time: of the update, seconds since 1970.
    """

    values: Mapping[str, float]
    step: int
    examples_seen: int
    wall_time: float


def log_scalars(trainer: pl.Trainer, rows: Sequence[Scalars]) -> None:
    """Log each row's values at its step, and again under `by_examples/` at its examples seen, on all loggers of the trainer.

    Loggers other than TensorBoard have one clock, so they get examples_seen as a value beside the others.
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
    """Log `values` under `by_examples/` at `examples_seen`, on TensorBoard alone."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            _add(logger, BY_EXAMPLES, [(values, examples_seen, wall_time)])


def _add(logger: TensorBoardLogger, prefix: str, points: Iterable[tuple[Mapping[str, float], int, float]]) -> None:
    """Write (values, step, wall time): one event for all values of a point, a fraction of the cost of one event each."""
    from tensorboard.compat.proto.event_pb2 import Event

    use_fast_checksums()
    writer = logger.experiment._get_file_writer()
    event, tags = Event(), tuple[str, ...]()
    for values, step, wall_time in points:
        if tuple(values) != tags:
            event, tags = Event(), tuple(values)
            for tag in tags:
                event.summary.value.add(tag=prefix + tag)
        for place, value in zip(event.summary.value, values.values(), strict=True):
            place.simple_value = value
        writer.add_event(event, step, wall_time)  # which takes a copy: as bytes

"""Start or continue the steps.csv of a run, without touching the rows of any other run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn

from noisescale.execution.loader import PlannedLoader
from noisescale.files import AppendedRows, read_rows, set_aside

__all__ = ["examples_before", "open_step_file"]


def examples_before(trainer: pl.Trainer, num_examples: int) -> int:
    """The examples seen before a training whose first updates the monitor has not observed, such as those before a checkpoint."""
    loader = trainer.train_dataloader
    if isinstance(loader, PlannedLoader):
        return loader.cursor.examples_seen
    seen = trainer.current_epoch * num_examples
    if trainer.global_step:
        rank_zero_warn(
            f"the {trainer.global_step} updates before were not observed by NoiseScaleMonitor; examples_seen starts at N x epoch = {seen}"
        )
    return seen


def open_step_file(path: Path, columns: Sequence[str], start: int, last: tuple[float, int | None] | None, shared: bool) -> AppendedRows:
    """The file for the rows from update `start` on.

    A new run sets aside the file that it finds. A run that continues keeps the rows before `start`, if they are its own, and otherwise
    sets the file aside, too.

    Args:
        path: the file.
        columns: its header; it must have step, lr, examples_seen and effective_batch_size.
        start: updates done before.
        last: (lr of update start - 1, examples_seen after it) in the run that is continued, nan and None if not known; None if it wrote
            no rows.
        shared: whether other runs write to the same place, so that the rows from `start` on may be another run's.
    """
    if start and not _continues(read_rows(path), start, last, shared):
        set_aside(path)
    return AppendedRows(path, columns, start, keep_removed=shared)


def _continues(rows: list[dict[str, str]], start: int, last: tuple[float, int | None] | None, shared: bool) -> bool:
    """Whether `rows` are those of the run that is continued, as far as the last one before `start` can tell."""
    if last is None:
        return False
    (lr, examples_seen), row = last, next((row for row in rows if int(row["step"]) == start - 1), None)
    if row is None:  # the rows of another run, or of this one, if it was killed before it wrote the last of them
        return not shared
    end = int(row["examples_seen"]) + int(row["effective_batch_size"])
    return (math.isnan(lr) or lr == float(row["lr"])) and examples_seen in (None, end)

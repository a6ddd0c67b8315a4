"""Start or continue the steps.csv of a run, without touching the rows of any other run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from noisescale.execution.loader import PlannedLoader
from noisescale.files import AppendedRows, Extent, extent_of, read_rows, set_aside

__all__ = ["Mark", "StepFile", "examples_before"]


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


@dataclass(frozen=True)
class Mark:
    """How far a steps.csv went when a checkpoint was saved.

    Attributes:
        path: where it was, absolute.
        first: the number of its first row.
        size, crc: its extent, see `files.Extent`.
    """

    path: str
    first: int
    size: int
    crc: int

    @property
    def extent(self) -> Extent:
        return Extent(self.size, self.crc)


class StepFile:
    """The file for the rows from update `start` on.

    A new run sets aside the file that it finds. A run that continues cuts the file back to what it was at the checkpoint. If the file is
    not what it was, its rows before `start` are kept if they are those of the run, and otherwise it is set aside, too; a line says
    which rows are missing.

    Args:
        path: the file.
        columns: its header; it must have step, lr, examples_seen and effective_batch_size.
        start: updates done before.
        last: (lr of update start - 1, examples_seen after it) in the run that is continued, nan and None if not known; None if it wrote
            no rows.
        shared: whether other runs write to the same place, so that the rows from `start` on may be another run's.
        mark: how far the file went at the checkpoint; None if that is not known.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        start: int,
        last: tuple[float, int | None] | None,
        shared: bool,
        mark: Mark | None = None,
    ) -> None:
        self._path, self._first, extent = path, 0, None
        if start and mark is not None and path.is_file() and extent_of(path, mark.size) == mark.extent:
            self._first, extent = mark.first, mark.extent
        elif start:
            rows = read_rows(path)
            if foreign := not _continues(rows, start, last, shared):
                set_aside(path)
                rows = []
            steps = [int(row["step"]) for row in rows if row["step"].isdecimal() and int(row["step"]) < start]
            if last is not None:
                _say_what_is_missing(path, steps, start, mark, foreign)
            self._first = min(steps, default=start)
        self._rows = AppendedRows(path, columns, start, keep_removed=shared, extent=extent)

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append `rows`, each with one value per column."""
        self._rows.append(rows)

    def mark(self) -> Mark:
        """How far the file goes, after waiting until it is on the disk."""
        extent = self._rows.sync()
        return Mark(str(self._path.absolute()), self._first, extent.size, extent.crc)


def _continues(rows: list[dict[str, str]], start: int, last: tuple[float, int | None] | None, shared: bool) -> bool:
    """Whether `rows` are those of the run that is continued, as far as the last one before `start` can tell."""
    if last is None or any("step" not in row for row in rows[:1]):
        return False
    (lr, examples_seen), row = last, next((row for row in rows if row["step"] == str(start - 1)), None)
    if row is None:  # the rows of another run, or of this one, if it was killed before it wrote the last of them
        return not shared
    try:
        end = int(row["examples_seen"]) + int(row["effective_batch_size"])
        return (math.isnan(lr) or lr == float(row["lr"])) and examples_seen in (None, end)
    except (KeyError, ValueError):
        return False


def _say_what_is_missing(path: Path, steps: list[int], start: int, mark: Mark | None, foreign: bool) -> None:
    missing = _in_words(sorted({*range(mark.first if mark is not None else min(steps, default=0), start)} - {*steps}))
    if not missing:
        return
    if foreign:
        rank_zero_info(f"{path} begins at update {start}: the file that was there is not that of the checkpoint, and was renamed")
    elif not steps and mark is not None and mark.path != str(path.absolute()):
        rank_zero_info(f"{path} begins at update {start}: {missing} are where the checkpoint was saved, in {mark.path}")
    else:
        rank_zero_warn(f"{path} lacks {missing}, which were lost after they were written; the training itself lacks nothing")


def _in_words(numbers: Sequence[int]) -> str:
    """`rows 3 to 5, 7`; empty if there are none."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return "rows " + ", ".join(" to ".join(map(str, run)) for run in runs) if runs else ""

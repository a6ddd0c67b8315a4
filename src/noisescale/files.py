"""Rows of a run, as CSV files that survive an interruption."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["AppendedRows", "read_rows", "set_aside", "write_atomically", "write_rows"]


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Replace `path` by `text`: a reader sees the old file or the new one, never a part.

    Args:
        durable: wait for the disk, so that this holds after a power cut too; some milliseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The complete rows of a CSV file; none where there is no file. A last line that was cut off by a crash is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(complete.splitlines()) if None not in row.values()]


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], durable: bool = True) -> None:
    """Replace a CSV file atomically; a missing value is an empty field. `durable` as in `write_atomically`."""
    lines = [",".join(columns)]
    lines += [",".join(_field(row.get(column, "")) for column in columns) for row in rows]
    write_atomically(path, "\n".join(lines) + "\n", durable)


def set_aside(path: Path) -> None:
    """Rename a file that a new run would overwrite to `name.1`, `name.2`, ...: the first that is free."""
    if path.exists():
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        path.rename(aside)


class AppendedRows:
    """A CSV file that grows: rows are numbered by their first column and appended in batches.

    Args:
        path: the file; a file of an earlier run is set aside when a run starts at 0.
        columns: its header.
        start: the number of the first row to come; rows from there on, which a resumed run makes again, are removed.
    """

    def __init__(self, path: Path, columns: Sequence[str], start: int) -> None:
        self.path, self.columns = path, columns
        if start == 0:
            set_aside(path)
        write_rows(path, columns, [row for row in read_rows(path) if int(row[columns[0]]) < start])

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write `rows`, each a value per column."""
        text = "".join(",".join(map(_field, row)) + "\n" for row in rows)
        with self.path.open("a", newline="") as file:
            file.write(text)


def _field(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)

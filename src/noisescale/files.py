"""Text and CSV files of a run, written so that an interruption cannot damage them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["AppendedRows", "read_rows", "set_aside", "write_atomically", "write_rows"]


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write `text` to `path`, replacing the file: a reader sees the old file or the new one, never part of one.

    Args:
        durable: wait for the disk, so that this holds even after a power cut; takes a few milliseconds.
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
    """The complete rows of a CSV file, or none if there is no file. A last line that a crash has cut off is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(complete.splitlines()) if None not in row.values()]


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], durable: bool = True) -> None:
    """Write a CSV file atomically, replacing any old one; a missing value becomes an empty field. `durable`: see `write_atomically`."""
    lines = [",".join(columns)]
    lines += [",".join(_field(row.get(column, "")) for column in columns) for row in rows]
    write_atomically(path, "\n".join(lines) + "\n", durable)


def set_aside(path: Path) -> None:
    """Rename a file that a new run would overwrite to the first free name of `name.1`, `name.2`, ..."""
    if path.exists():
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        path.rename(aside)


class AppendedRows:
    """A CSV file that grows: rows are numbered by their first column and appended in batches.

    Args:
        path: the file. If `start` is 0, a file that an earlier run left there is set aside.
        columns: its header.
        start: the number of the next row. Existing rows from there on are removed, because a resumed run writes them again.
    """

    def __init__(self, path: Path, columns: Sequence[str], start: int) -> None:
        self.path, self.columns = path, columns
        if start == 0:
            set_aside(path)
        write_rows(path, columns, [row for row in read_rows(path) if int(row[columns[0]]) < start])

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append `rows`, each with one value per column."""
        text = "".join(",".join(map(_field, row)) + "\n" for row in rows)
        with self.path.open("a", newline="") as file:
            file.write(text)


def _field(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)

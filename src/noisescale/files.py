"""Text and CSV files of a run, written so that an interruption cannot damage them."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any, TextIO
from weakref import finalize

__all__ = ["AppendedRows", "read_rows", "replaced", "set_aside", "write_atomically", "write_rows"]


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write `text` to `path`, replacing the file: a reader sees the old file or the new one, never part of one.

    Args:
        durable: wait for the disk, so that this holds even after a power cut; takes a few milliseconds.
    """
    with replaced(path, durable) as file:
        file.write(text)


@contextmanager
def replaced(path: Path, durable: bool = True) -> Iterator[TextIO]:
    """A text file that replaces `path` when the block ends, for what is too long for one text; see `write_atomically`.

    If the block raises, the old file stays as it was.
    """
    _refuse_device(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", newline="") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # the disk may be full, so that its space is needed
            part.unlink(missing_ok=True)
        raise


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
    if not path.exists():
        return
    _refuse_device(path)
    aside = _free_name(path)
    try:
        path.replace(aside)
    except FileNotFoundError:  # another run has just done the same
        aside.unlink()


def _free_name(path: Path) -> Path:
    """An empty file with the first free name of `name.1`, `name.2`, ..., so that no other run takes the same one."""
    for number in count(1):
        aside = path.with_name(f"{path.name}.{number}")
        with suppress(FileExistsError):
            aside.touch(exist_ok=False)
            return aside
    raise AssertionError


class AppendedRows:
    """A CSV file that grows: rows are numbered by their first column and appended in batches.

    The file stays open, so that the rows of each run stay together when another run starts in the same folder and sets it aside.

    Args:
        path: the file. If `start` is 0, a file that an earlier run left there is set aside.
        columns: its header.
        start: the number of the next row. Existing rows from there on are removed, because a resumed run writes them again.
        keep_removed: leave a copy of the file, as if it had been set aside, if rows are removed.
    """

    def __init__(self, path: Path, columns: Sequence[str], start: int, keep_removed: bool = False) -> None:
        self.columns = columns
        if start == 0:
            self._file = _new_file(path)
            self._write(",".join(columns) + "\n")
        else:
            rows = read_rows(path)
            kept = [row for row in rows if int(row[columns[0]]) < start]
            if keep_removed and len(kept) < len(rows):
                shutil.copyfile(path, _free_name(path))
            write_rows(path, columns, kept)
            self._file = path.open("a", newline="")
        finalize(self, _close, self._file)

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append `rows`, each with one value per column.

        Raises:
            OSError: they cannot be written, or the file was removed: what is written to it then is lost.
        """
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was removed while the run was writing it", str(self._file.name))
        self._write("".join(",".join(map(_field, row)) + "\n" for row in rows))

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _close(file: IO[Any]) -> None:
    with suppress(OSError):  # of rows that could not be written, which `append` has said
        file.close()


def _refuse_device(path: Path) -> None:
    """Raise OSError for what is there and is no file, such as /dev/null, which a privileged user could replace."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "there is something that is no file", str(path))


def _new_file(path: Path) -> TextIO:
    """A new file that no other run has opened; one that is there is set aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        set_aside(path)
        with suppress(FileExistsError):
            return path.open("x", newline="")


def _field(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)

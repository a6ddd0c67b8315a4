"""Text and CSV files of a run, written so that an interruption cannot damage them."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO
from weakref import finalize
from zlib import crc32

__all__ = ["AppendedRows", "Extent", "cut_back", "extent_of", "read_rows", "replaced", "set_aside", "write_atomically", "write_rows"]


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
    """The complete rows of a CSV file, or none if there is no file. A line that a crash has cut off or filled with zeros is left out."""
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    complete = text[: text.rfind("\n") + 1]
    lines = [line for line in complete.split("\n") if "\0" not in line]
    return [row for row in csv.DictReader(lines) if None not in row.values() and None not in row]


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


@dataclass(frozen=True)
class Extent:
    """How far a file goes that is only appended to: the number of its bytes, and their CRC-32."""

    size: int = 0
    crc: int = 0

    def then(self, data: bytes) -> Extent:
        """The extent with `data` behind it."""
        return Extent(self.size + len(data), crc32(data, self.crc))


def extent_of(path: Path, size: int | None = None, known: Extent | None = None) -> Extent:
    """The extent of the first `size` bytes of a file, or of the whole file; a smaller one if the file is shorter.

    Args:
        path: the file.
        size: None: the whole file.
        known: the extent of the beginning of the file, which is then not read again.
    """
    extent = known or Extent()
    with path.open("rb") as file:
        file.seek(extent.size)
        while data := file.read(_CHUNK if size is None else min(_CHUNK, size - extent.size)):
            extent = extent.then(data)
    return extent


_CHUNK = 1 << 20


def cut_back(path: Path, extent: Extent) -> bool:
    """Remove what was appended to a file after `extent`. False, and nothing is done, if the file does not begin with that."""
    if not path.is_file() or extent_of(path, extent.size) != extent:
        return False
    if path.stat().st_size > extent.size:
        with path.open("r+b") as file:
            file.truncate(extent.size)
            os.fsync(file.fileno())
    return True


class AppendedRows:
    """A CSV file that grows: rows are numbered by their first column and appended in batches.

    The file stays open, so that the rows of each run stay together when another run starts in the same folder and sets it aside.

    Args:
        path: the file. If `start` is 0, a file that an earlier run left there is set aside.
        columns: its header.
        start: the number of the next row. Existing rows from there on are removed, because a resumed run writes them again.
        keep_removed: leave a copy of the file, as if it had been set aside, if rows are removed.
        extent: how far the file went when it had the rows up to `start`, as `sync` has said. It is cut back to that, without reading its
            rows, if it begins with that and has these columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], start: int, keep_removed: bool = False, extent: Extent | None = None) -> None:
        self.columns, self.extent = columns, Extent()
        header = (",".join(columns) + "\n").encode()
        if start == 0:
            self._file = _new_file(path)
            self._write(header)
        elif extent is not None and _begins(path, header) and extent_of(path, extent.size) == extent:
            if keep_removed and path.stat().st_size > extent.size:
                shutil.copyfile(path, _free_name(path))
            cut_back(path, extent)
            self._file, self.extent = path.open("ab"), extent
        else:
            rows = [row for row in read_rows(path) if row.get(columns[0], "").isdecimal()]
            kept = [row for row in rows if int(row[columns[0]]) < start]
            if keep_removed and len(kept) < len(rows):
                shutil.copyfile(path, _free_name(path))
            write_rows(path, columns, kept)
            self._file, self.extent = path.open("ab"), extent_of(path)
        self._synced = Extent()
        finalize(self, _close, self._file)

    def append(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append `rows`, each with one value per column.

        Raises:
            OSError: they cannot be written, or the file was removed: what is written to it then is lost.
        """
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was removed while the run was writing it", str(self._file.name))
        self._write("".join(",".join(map(_field, row)) + "\n" for row in rows).encode())

    def sync(self) -> Extent:
        """Wait until all rows are on the disk, where they survive a power cut; returns how far the file goes."""
        if self._synced != self.extent:
            os.fsync(self._file.fileno())
            self._synced = self.extent
        return self.extent

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        self.extent = self.extent.then(data)


def _begins(path: Path, header: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _close(file: IO[Any]) -> None:
    with suppress(OSError):  # of rows that could not be written, which `append` has said
        file.close()


def _refuse_device(path: Path) -> None:
    """Raise OSError for what is there and is no file, such as /dev/null, which a privileged user could replace."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "there is something that is no file", str(path))


def _new_file(path: Path) -> BinaryIO:
    """A new file that no other run has opened; one that is there is set aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        set_aside(path)
        with suppress(FileExistsError):
            return path.open("xb")


def _field(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)

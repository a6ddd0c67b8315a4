"""TensorBoard's event files: how far they go at a checkpoint, and how to cut them back to it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from noisescale.files import Extent, cut_back, extent_of

__all__ = ["EventFiles"]

_MARK = "tfevents"
"""TensorBoard reads each file that has this in its name."""


class EventFiles:
    """The event files of a run: one or several per process that has worked on it, since a writer that is closed and used again opens one.

    Args of the methods: `folders` has (folder, torch's SummaryWriter) for each TensorBoard logger.
    """

    def __init__(self) -> None:
        self._own: dict[Path, Extent] = {}

    def state(self, folders: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
        """`files`: name -> [size, CRC-32] of those of the run; `others`: the names of all others in the same folders.

        Only what was appended since the last time is read.
        """
        others: set[str] = set()
        for folder, writer in folders:
            if (path := _file_of(writer)) is not None:
                writer.flush()
                self._own.setdefault(path, Extent())
            others |= {each.name for each in _event_files(folder)}
        for path, known in self._own.items():
            if path.is_file():
                self._own[path] = _synced(path, known)
        return {
            "files": {path.name: [extent.size, extent.crc] for path, extent in self._own.items()},
            "others": sorted(others - {path.name for path in self._own}),
        }

    def cut_back(self, folders: Iterable[tuple[Path, Any]], saved: Mapping[str, Any], step: int) -> None:
        """Cut the files of the run back to what they were when the checkpoint was saved, at update `step`.

        Files that have come since then are renamed, so that TensorBoard does not read them. In a folder that has none of the run's files,
        nothing is done.
        """
        self._own, missing = {}, dict(saved["files"])
        for folder, writer in folders:
            there, opened = _event_files(folder), _file_of(writer)
            if opened is not None:
                writer.flush()
            mine = [each for each in there if each.name in saved["files"]]
            for each in mine:
                extent = Extent(*missing.pop(each.name, saved["files"][each.name]))
                if not cut_back(each, extent):
                    extent = _cut_to_whole_records(each, extent.size)
                    rank_zero_warn(f"{each} was damaged after the checkpoint was saved; TensorBoard lacks some points before update {step}")
                self._own[each] = extent
            for each in there if mine else ():
                if each.name not in saved["files"] and each.name not in saved["others"] and each != opened:
                    each.rename(each.with_name(each.name.replace(_MARK, "set_aside")))
            if not mine and saved["files"]:
                rank_zero_info(f"TensorBoard's points before update {step} are not in {folder}, but where the checkpoint was saved")
                missing = {}
        if missing:
            rank_zero_warn(f"{', '.join(sorted(missing))} is missing; TensorBoard lacks the points of that file")


def _event_files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob(f"*{_MARK}*") if each.is_file())


def _file_of(writer: Any) -> Path | None:
    """The file that a SummaryWriter writes into; None if it is closed."""
    file_writer = getattr(writer, "file_writer", None)
    name = getattr(getattr(file_writer, "event_writer", None), "_file_name", None)
    return None if name is None else Path(os.fsdecode(name))


def _synced(path: Path, known: Extent) -> Extent:
    size = path.stat().st_size
    if size == known.size:
        return known
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return extent_of(path, size, known if size > known.size else None)


def _cut_to_whole_records(path: Path, size: int) -> Extent:
    """Cut a damaged file to the whole records among its first `size` bytes: those before the first whose header has a wrong checksum."""
    from tensorboard.summary.writer.record_writer import masked_crc32c

    with path.open("r+b") as file:
        end, whole = min(size, path.stat().st_size), 0
        while whole + 16 <= end:
            file.seek(whole)
            header = file.read(12)
            length = _uint(header[:8])
            if _uint(header[8:]) != masked_crc32c(header[:8]) or whole + 16 + length > end:
                break
            data, checksum = file.read(length), file.read(4)
            if _uint(checksum) != masked_crc32c(data):
                break
            whole += 16 + length
        file.truncate(whole)
    return extent_of(path)


def _uint(data: bytes) -> int:
    return int(struct.unpack("<Q" if len(data) == 8 else "<I", data)[0])

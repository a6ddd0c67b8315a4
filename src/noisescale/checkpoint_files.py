"""Checkpoint files that survive: written beside the old one and renamed, the one before kept, and checked before they are read.

A checkpoint of torch is a zip whose members are stored as they are, each with a checksum (CRC-32). Nothing here unpacks or unpickles one.
"""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

__all__ = ["BEST", "LAST", "PREVIOUS", "damage_of", "fsync", "keep_as", "replace_with", "substitutes_of"]

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
"""The newest checkpoint of a run, the one before it, and the best by a metric."""

_LIST_DAMAGED = "is damaged (in its list of contents)"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def replace_with(path: Path, write: Callable[[BinaryIO], None], *, durable: bool = True, before: Callable[[], None] | None = None) -> None:
    """Write a file and rename it to `path`: whoever reads `path`, even after a kill, finds the old file or the new one, never a part.

    The new file is written in the folder of `path`, because renaming is atomic only inside one file system. If anything fails, `path` is
    as it was, and what was written is removed.

    Args:
        path: the file to write or replace; its folder is made if it is not there.
        write: writes the contents to an open file.
        durable: wait for the disk, so that this holds even after a power cut.
        before: called when the new file is complete, just before it is renamed.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    part.unlink(missing_ok=True)
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if before is not None:
            before()
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        fsync(path.parent)


def keep_as(path: Path, kept: Path) -> None:
    """Give the file `path` the second name `kept`, which replaces an older file; where there are no hard links, `path` is renamed."""
    part = _part(kept)
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:
        path.replace(kept)
        return
    part.replace(kept)
    part.unlink(missing_ok=True)  # renaming does nothing if both are names of one file already, as after a kill between two renames


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; does nothing where the system cannot do that for a folder."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def damage_of(path: Path) -> str:
    """Why `path` cannot be loaded as a checkpoint, as a phrase; empty if it is one and all of it is as it was written.

    Every byte is read once, and compared with the checksums in the file; a file that has not changed since is not read again.
    """
    try:
        found = path.stat()
        if path.is_dir():
            return "is a folder, not a checkpoint"
        if not path.is_file():
            return "is not a file"
        return _damage(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except FileNotFoundError:
        return "no such file" if path.is_absolute() else f"no such file in {Path.cwd()}"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def substitutes_of(path: Path) -> list[Path]:
    """The checkpoints of the same run that can stand in for a damaged `last.ckpt`, and are whole; none for any other file."""
    if path.name != LAST:
        return []
    return [other for other in (path.with_name(PREVIOUS), path.with_name(BEST)) if other.exists() and not damage_of(other)]


@lru_cache(maxsize=64)
def _damage(path: Path, size: int, changed: int, inode: int) -> str:
    if size == 0:
        return "is empty (0 bytes)"
    with path.open("rb") as file:
        start = file.read(4)
        try:
            if not zipfile.is_zipfile(file):
                return _not_a_zip(start)
            with zipfile.ZipFile(file) as archive:
                return _damage_in(archive)
        except Exception as error:  # the bytes can be anything, and so can what zipfile raises
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            return _LIST_DAMAGED


def _damage_in(archive: zipfile.ZipFile) -> str:
    names = [member.filename.partition("/")[2] for member in archive.infolist()]
    if "constants.pkl" in names:
        return "holds code (TorchScript), not loaded"
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()) or "data.pkl" not in names:
        return "is a zip, but not a checkpoint"
    if any(member.external_attr or member.file_size != member.compress_size for member in archive.infolist()):
        return _LIST_DAMAGED  # torch's reader takes a member with the mark of a folder for an empty one
    wrong = archive.testzip()
    return "" if wrong is None else f"is damaged ({wrong if wrong.isprintable() else 'a part'} does not match its checksum)"


def _not_a_zip(start: bytes) -> str:
    if start == _ZIP:
        return "is damaged (its end is missing)"
    if start[:1] == _PICKLE:
        return "is a pickle, which can hold code, not loaded"
    return "is damaged (it starts with zeros)" if not any(start) else "is not a checkpoint, or a damaged one"


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")

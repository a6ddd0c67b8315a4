"""What decoding found, kept in `<root>/.noisescale/` until a file of the folder changes.

A file's name ends in a fingerprint of all that it was made from, so a file that is found is right or it is not ours; one of another
length, or with another head, is made anew. It is written beside its place and then renamed: processes that start at once each write
their own, the last one stays, and all of them are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from noisescale.errors import ConfigError

__all__ = ["ImageCache"]

VERSION = 1
A_DAY = 86_400.0
HEAD = 4096  # bytes: a page, so that the images after it are aligned


@dataclass(frozen=True)
class ImageCache:
    """Tensors in the files of one folder. What cannot be read is None; that nothing can be written is said once.

    Args:
        folder: made when something is kept. None: nothing is kept or found.
    """

    folder: Path | None

    def mark(self, root: Path, files: Sequence[str], *settings: object) -> str:
        """32 hexadecimal digits that change with `settings`, and with the path below `root`, the size or the time of change of any file.

        Raises:
            ConfigError: a file has gone.
        """
        if self.folder is None:
            return ""
        digest = hashlib.blake2b(repr((VERSION, len(files), *settings)).encode(), digest_size=16)
        start = len(os.path.join(root.expanduser(), ""))
        for file in files:
            try:
                found = os.stat(file)
            except OSError as error:
                raise ConfigError("root", root, f"{file} is there no longer ({error.strerror})", "let nothing change the folder") from None
            digest.update(f"{file[start:]}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def has(self, name: str, mark: str) -> bool:
        """Whether there is a file for it, right or wrong."""
        return self.folder is not None and _path(self.folder, name, mark).is_file()

    def find(self, name: str, mark: str) -> Tensor | None:
        """What was kept under `name` with the fingerprint `mark`, mapped: processes share the memory. It must not be written to."""
        if self.folder is None:
            return None
        path = _path(self.folder, name, mark)
        try:
            with path.open("rb") as file:
                head, size = file.read(HEAD), os.fstat(file.fileno()).st_size
            told = json.loads(head)
            shape, dtype = tuple(told["shape"]), np.dtype(told["dtype"])
            if head != _head(mark, shape, dtype) or size != HEAD + math.prod(shape) * dtype.itemsize:
                return None
            # Copy on write: torch has no read-only tensors, and nobody writes.
            return torch.from_numpy(np.memmap(path, dtype, mode="c", offset=HEAD, shape=shape))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, name: str, mark: str, values: Tensor) -> Tensor:
        """Keep `values`, uint8 or int64; returns what `find` would, or, where they could not be kept, `values`."""
        if self.folder is None:
            return values
        array, path = values.contiguous().numpy(), _path(self.folder, name, mark)
        try:
            _replace(path, _head(mark, array.shape, array.dtype), array)
        except OSError as error:
            _say_once(f"note: decoded images are not kept: {self.folder} cannot be written ({error.strerror})")
            return values
        # Of files that have changed (a process that has one mapped keeps the memory), and of processes that were killed.
        stale = [other for other in self.folder.glob(f"{name}-{'?' * len(mark)}") if other != path]
        for other in [*stale, *self.folder.glob(".part-*")]:
            with suppress(OSError):
                if other in stale or time.time() - other.stat().st_mtime > A_DAY:
                    other.unlink()
        found = self.find(name, mark)
        return values if found is None else found


def _path(folder: Path, name: str, mark: str) -> Path:
    return folder / f"{name}-{mark}"


def _replace(path: Path, head: bytes, array: npt.NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(head)
            file.write(array.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _head(mark: str, shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    told = {"noisescale": VERSION, "mark": mark, "dtype": dtype.name, "shape": list(shape)}
    return json.dumps(told).ljust(HEAD).encode()


@cache
def _say_once(words: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(words, file=sys.stderr)

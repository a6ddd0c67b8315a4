"""A cache of decoded images in `<root>/.noisescale/`, valid until a file of the folder changes.

The name of a cache file ends in a fingerprint of everything it was made from, so a file with the right name has the right contents. If its
length or its header is not as expected, it is written again. It is written under a temporary name and then renamed: processes that start at
the same time each write their own, the last one replaces the others, and all of them are identical.
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

from noisescale.data.progress import progress_bar
from noisescale.errors import ConfigError

__all__ = ["ImageCache", "say_once"]

VERSION = 2  # of the files and of how images are decoded: a file of another version is never used
A_DAY = 86_400.0
A_THOUSAND, A_PART = 1024, 64 * 2**20  # files and bytes between two steps of a progress bar
HEADER = 4096  # bytes: one page, so that the images after it are aligned


@dataclass(frozen=True)
class ImageCache:
    """Tensors in the files of one folder. One that cannot be read is None; if nothing can be written, a note says so once.

    Args:
        folder: created when something is kept. None: nothing is kept or found.
    """

    folder: Path | None

    def mark(self, root: Path, files: Sequence[str], *settings: object) -> str:
        """A fingerprint of 32 hexadecimal digits.

        It changes with `settings`, and with the path below `root`, the size or the modification time of any file.

        Raises:
            ConfigError: a file is missing.
        """
        if self.folder is None:
            return ""
        digest = hashlib.blake2b(repr((VERSION, len(files), *settings)).encode(), digest_size=16)
        start = len(os.path.join(root.expanduser(), ""))
        with progress_bar("looking for changed files", len(files)) as advance:
            for number, file in enumerate(files, 1):
                try:
                    found = os.stat(file)
                except OSError as error:
                    problem = f"{file} no longer exists ({error.strerror})"
                    raise ConfigError("root", root, problem, "do not change the folder while it is being read") from None
                digest.update(f"{file[start:]}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
                if number % A_THOUSAND == 0:
                    advance(A_THOUSAND)
        return digest.hexdigest()

    def has(self, name: str, mark: str) -> bool:
        """Whether there is a file for it, intact or not."""
        return self.folder is not None and _path(self.folder, name, mark).is_file()

    def find(self, name: str, mark: str) -> Tensor | None:
        """The tensor kept under `name` with the fingerprint `mark`, memory-mapped so that processes share it. It must not be written to."""
        if self.folder is None:
            return None
        path = _path(self.folder, name, mark)
        try:
            with path.open("rb") as file:
                header, size = file.read(HEADER), os.fstat(file.fileno()).st_size
            described = json.loads(header)
            shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
            if header != _header(mark, shape, dtype) or size != HEADER + math.prod(shape) * dtype.itemsize:
                return None
            # Copy on write, because torch has no read-only tensors; nothing writes to it.
            return torch.from_numpy(np.memmap(path, dtype, mode="c", offset=HEADER, shape=shape))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, name: str, mark: str, values: Tensor) -> Tensor:
        """Keep `values`, uint8 or int64. Returns what `find` would return, or `values` if they could not be kept."""
        if self.folder is None:
            return values
        array, path = values.contiguous().numpy(), _path(self.folder, name, mark)
        try:
            _replace(path, _header(mark, array.shape, array.dtype), array)
        except OSError as error:
            say_once(f"note: decoded images are not cached: {self.folder} cannot be written to ({error.strerror})")
            return values
        # Remove caches of files that have since changed (a process that has one mapped keeps the memory), and what killed processes left.
        stale = [other for other in self.folder.glob(f"{name}-{'?' * len(mark)}") if other != path]
        for other in [*stale, *self.folder.glob(".part-*")]:
            with suppress(OSError):
                if other in stale or time.time() - other.stat().st_mtime > A_DAY:
                    other.unlink()
        found = self.find(name, mark)
        return values if found is None else found


def _path(folder: Path, name: str, mark: str) -> Path:
    return folder / f"{name}-{mark}"


def _replace(path: Path, header: bytes, array: npt.NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(header)
            content = array.data.cast("B")
            with progress_bar("writing the cache of the images", len(content)) as advance:
                for start in range(0, len(content), A_PART):
                    advance(file.write(content[start : start + A_PART]))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _header(mark: str, shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    described = {"noisescale": VERSION, "mark": mark, "dtype": dtype.name, "shape": list(shape)}
    return json.dumps(described).ljust(HEADER).encode()


@cache
def say_once(line: str) -> None:
    """Print `line` on the standard error, once in the life of a process, and only in the first process of a run."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)

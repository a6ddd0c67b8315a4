"""Let a process kill itself at an exact point: inside the n-th write of a file, around its rename, or in the n-th call of a function.

SIGKILL gives a process no chance to clean up, as when memory runs out or a machine is taken away.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Death", "arm", "label"]


@dataclass(frozen=True)
class Death:
    """Where a process dies.

    Args:
        what: what is counted, `<file> <operation>` with a `label` and write, replace, fsync or copy; or `module:function`.
        nth: at which of them, from 1.
        part: before | half | after: whether the operation is done; half only for write and copy.
    """

    what: str
    nth: int
    part: str = "before"


def arm(death: Death | None, functions: tuple[str, ...] = ()) -> Counter[str]:
    """Count all operations on the files of a run in this process, and calls of `functions`, and die at `death`; returns the counter."""
    seen: Counter[str] = Counter()

    def reached(what: str, part: str) -> bool:
        if part == "before":
            seen[what] += 1
        return death is not None and (death.what, death.nth, death.part) == (what, seen[what], part)

    builtins.open = io.open = _watched_open(io.open, reached)
    for name in ("replace", "rename"):
        setattr(os, name, _watched(getattr(os, name), "replace", lambda args: args[1], reached))
    os.fsync = _watched(os.fsync, "fsync", lambda args: _path_of(args[0]), reached)
    os.sendfile = _watched_copy(os.sendfile, reached)
    shutil._USE_CP_SENDFILE = True  # type: ignore[attr-defined]
    for function in functions:
        _watch_calls(function, reached)
    return seen


def label(path: Any) -> str:
    """What a file is to a run, `steps.csv` also for a part of it that is renamed later; empty for a file that is not one of a run."""
    path = Path(os.fsdecode(path))
    for name in ("last.ckpt", "best.ckpt", "previous.ckpt", "steps.csv", "epochs.csv", "results.json", "hparams.yaml"):
        if name in path.name:
            return name
    if "tfevents" in path.name:
        return "TensorBoard"
    if path.parent.name == ".hydra":
        return ".hydra"
    return "temporary" if path.parent == Path(tempfile.gettempdir()) and path.name.startswith("tmp") else ""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class _Watched:
    """An open file that counts its writes."""

    def __init__(self, file: Any, name: str, reached: Callable[[str, str], bool]) -> None:
        self._opened, self._what, self._reached = file, f"{name} write", reached

    def write(self, data: Any) -> Any:
        if self._reached(self._what, "before"):
            _die()
        if self._reached(self._what, "half"):
            self._opened.write(memoryview(data)[: len(data) // 2] if isinstance(data, (bytes, bytearray)) else data[: len(data) // 2])
            self._opened.flush()
            _die()
        written = self._opened.write(data)
        if self._reached(self._what, "after"):
            _die()
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def __iter__(self) -> Any:
        return iter(self._opened)


def _watched_open(real: Any, reached: Callable[[str, str], bool]) -> Any:
    @functools.wraps(real)
    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        handle = real(file, mode, *args, **options)
        name = label(file) if isinstance(file, (str, bytes, os.PathLike)) and set("wax+") & set(mode) else ""
        return _Watched(handle, name, reached) if name else handle

    return opened


def _watched(real: Any, operation: str, path: Callable[[tuple[Any, ...]], Any], reached: Callable[[str, str], bool]) -> Any:
    @functools.wraps(real)
    def call(*args: Any, **options: Any) -> Any:
        what = f"{name} {operation}" if (name := label(path(args))) else ""
        if what and reached(what, "before"):
            _die()
        result = real(*args, **options)
        if what and reached(what, "after"):
            _die()
        return result

    return call


def _watched_copy(real: Any, reached: Callable[[str, str], bool]) -> Any:
    def sendfile(out: int, source: int, offset: int, count: int) -> int:
        size = max(os.fstat(source).st_size - offset, 0)
        what = f"{name} copy" if size and (name := label(_path_of(out))) else ""
        if what and reached(what, "before"):
            _die()
        if what and reached(what, "half"):
            real(out, source, offset, size // 2)
            _die()
        return int(real(out, source, offset, count))

    return sendfile


def _watch_calls(function: str, reached: Callable[[str, str], bool]) -> None:
    module, _, dotted = function.partition(":")
    owner: Any = import_module(module)
    *parents, name = dotted.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real = getattr(owner, name)

    @functools.wraps(real)
    def call(*args: Any, **options: Any) -> Any:
        if reached(function, "before"):
            _die()
        result = real(*args, **options)
        if reached(function, "after"):
            _die()
        return result

    setattr(owner, name, call)


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""

"""How checkpoints are written and read: `Trainer(plugins=[SafeCheckpointIO()])`."""

from __future__ import annotations

import math
import pickle
import re
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning_fabric.utilities.cloud_io import _is_local_file_protocol
from lightning_fabric.utilities.cloud_io import _load as _load_anywhere
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

from noisescale.checkpoint_files import LAST, PREVIOUS, damage_of, fsync, keep_as, replace_with, substitutes_of
from noisescale.errors import ConfigError
from noisescale.files import set_aside

__all__ = ["CheckpointNotSaved", "SafeCheckpointIO", "update_of", "whole_checkpoint"]

_REMEDY = "give a whole checkpoint, or start anew"


class CheckpointNotSaved(OSError):
    """A checkpoint could not be written; `str` is one line with the file, the reason, what is kept, and how to go on.

    Args:
        number, reason, path: as of any OSError about a file.
        kept: what is kept, and how to go on, as a clause.
    """

    def __init__(self, number: int | None, reason: str, path: str, kept: str) -> None:
        super().__init__(number, reason, path)
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.strerror, self.filename, self.kept)

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written ({self.strerror}); {self.kept}"


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, such that a kill, a full disk or a damaged file never costs more than one of them.

    Saving. A file is written beside its target and renamed, and the disk is waited for. Lightning itself writes into the system's folder
    for temporary files, and copies from there over the old checkpoint if that is on another file system. When `last.ckpt` is replaced, the
    one before stays as `previous.ckpt`. Saves that follow a durable one within `patience` are not waited for, and `previous.ckpt` stays
    that durable one: a power cut costs no more than that time, a kill nothing.

    Loading. The checksums in the file are compared first. A damaged `last.ckpt` is replaced by the newest of `previous.ckpt` and
    `best.ckpt` that is whole, with a line. Only tensors and plain values are loaded, never code, whatever the environment says; a caller
    that passes `weights_only=False` is obeyed.

    A file that is not local (`s3://...`) is left to Lightning, and so are strategies with checkpoints of their own (FSDP in shards).

    Args:
        patience: see above, in seconds; 0 waits for the disk at every save.

    Raises:
        ConfigError: a checkpoint to load is missing or damaged, and there is none to fall back to; it holds code.
        CheckpointNotSaved: a checkpoint cannot be written. The old one is as it was, and nothing else is left.
    """

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience
        self._durable: dict[Path, bool] = {}  # what this object has saved: path -> whether the disk was waited for
        self._durable_at: dict[Path, float] = {}
        self._updates: dict[Path, int] = {}
        self._resumed: set[Path] = set()  # folders that this training continues in

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = _resolved(path)
        durable = time.monotonic() - self._durable_at.get(target, -math.inf) >= self._patience
        try:
            replace_with(target, lambda file: _write(checkpoint, file), durable=durable, before=lambda: self._keep(target))
        except OSError as error:
            raise CheckpointNotSaved(error.errno, error.strerror or str(error), str(path), self._kept(target)) from error
        self._durable[target] = durable
        if durable:
            self._durable_at[target] = time.monotonic()
        if isinstance(checkpoint.get("global_step"), int):
            self._updates[target] = checkpoint["global_step"]

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        weights_only = True if weights_only is None else weights_only
        if not _is_local_file_protocol(path):
            return cast(dict[str, Any], _load_anywhere(path, map_location=map_location, weights_only=weights_only))
        found = whole_checkpoint(path)
        self._resumed.add(_resolved(found).parent)
        return _load(found, map_location, weights_only)

    def teardown(self) -> None:
        """Wait for what was saved last."""
        for path in [path for path, durable in self._durable.items() if not durable]:
            fsync(path)
            fsync(path.parent)
            self._durable[path] = True

    def _keep(self, target: Path) -> None:
        """Let `previous.ckpt` be the `last.ckpt` that is about to be replaced, if that is whole, of this run, and safely on the disk."""
        if target.name != LAST:
            return
        previous = target.with_name(PREVIOUS)
        if target not in self._durable and target.parent not in self._resumed:
            set_aside(previous)  # of another run, and so is a last.ckpt that is there
        elif target.exists() and self._durable.get(target, True) and (target in self._durable or not damage_of(target)):
            keep_as(target, previous)

    def _kept(self, target: Path) -> str:
        for path in (target.with_name(LAST), target.with_name(PREVIOUS), target):
            if path.exists() and not damage_of(path):
                update = f" of update {self._updates[path]}" if path in self._updates else ""
                return f"{path.name}{update} is kept: make room, and resume with ckpt_path={path}"
        return "no checkpoint was saved before"


def whole_checkpoint(path: str | Path) -> Path:
    """The checkpoint to resume from: `path` if it is whole; for a damaged `last.ckpt` the newest whole one, with a line that says so.

    The newest is the one with the most updates; the time of a file says when it was copied.

    Raises:
        ConfigError: `path` cannot be loaded, and nothing can stand in for it.
    """
    path = Path(path)
    damage = damage_of(path)
    if not damage:
        return path
    updates = {other: update for other in substitutes_of(path) if (update := update_of(other, resumable=True)) is not None}
    if not updates:
        raise ConfigError("ckpt_path", path, damage, _REMEDY)
    newest = max(updates, key=lambda other: updates[other])
    rank_zero_warn(f"ckpt_path={path}: {damage}; resuming from {newest.name}, update {updates[newest]}")
    return newest


def update_of(path: Path, resumable: bool = False) -> int | None:
    """The number of updates before a checkpoint was saved; None if it is not whole.

    Args:
        path: the file.
        resumable: whether one that has only weights counts as not whole.
    """
    if damage_of(path):
        return None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return None if resumable and "optimizer_states" not in checkpoint else int(checkpoint["global_step"])
    except Exception:  # whatever it holds, it is not a checkpoint of ours
        return None


def _load(path: Path, map_location: Any, weights_only: bool) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        raise ConfigError("ckpt_path", path, _refused(str(error)), _REMEDY) from error
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError("ckpt_path", path, f"cannot be loaded ({reason})", _REMEDY) from error
    return loaded


def _refused(message: str) -> str:
    """What torch's reader of plain values did not accept. Its own message says how to load the file all the same."""
    names = re.search(r"GLOBAL (\S+) (?:was not|whose)|(\S+) must be \S+ to load|unrecognized function <[^>]*?([\w.]+)>", message)
    name = next(filter(None, names.groups()), "") if names is not None else ""
    return f"holds code ({name.strip('`')}), not loaded" if name else "holds code, or other than tensors and plain values, not loaded"


def _write(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    """Save into an open file; an error of the system comes out as it is, where torch would report a position in its zip."""
    watched = _Watched(file)
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        torch.save(checkpoint, cast(BinaryIO, watched))
    except Exception:
        if watched.error is not None:
            raise watched.error from None
        raise
    finally:
        torch.serialization.set_crc32_options(checksums)
    if watched.error is not None:
        raise watched.error


class _Watched:
    """An open file that remembers the first error of writing to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.error = file, None

    error: OSError | None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _resolved(path: str | Path) -> Path:
    """The file by the real name of its folder; a file that is a link itself is replaced, not followed."""
    return Path(path).parent.resolve() / Path(path).name

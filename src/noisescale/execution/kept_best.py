"""The best checkpoint on the disk is the one that the last checkpoint knows of, whenever a run was killed."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.cloud_io import _is_local_file_protocol
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn

from noisescale.checkpoint_files import keep_as, replace_with
from noisescale.execution.checkpoint_io import update_of
from noisescale.execution.compatibility import untyped

__all__ = ["KeptBest"]


class KeptBest:
    """Keeps the files of a callback that saves the best checkpoints in step with the last checkpoint.

    The best one is written first, and the last one, which has the scores, after it. A run that is killed between the two is resumed from
    the last checkpoint before, whose best file has been replaced. So that one is kept under a hidden name until the last checkpoint knows
    the new one, and is put back when the run is resumed without it. In the same way a file that is no longer among the best k is removed
    only then.

    A run that is resumed into another folder takes the best files with it.

    Args:
        callback: the callback; nothing is done for one without a `monitor`, or one whose files are not local.
    """

    def __init__(self, callback: ModelCheckpoint) -> None:
        self._callback = callback
        self._updates: dict[str, int] = {}  # file -> the number of updates before it was saved
        self._elsewhere: dict[str, str] = {}  # file -> where the run that is resumed had it
        self._obsolete: list[str] = []
        self._loaded = False

    # -- saving ---------------------------------------------------------------------------------------------------------------

    def before_saving(self, trainer: pl.Trainer, path: str) -> None:
        """Keep the file that is about to be replaced, if the last checkpoint may know it."""
        if not self._applies:
            return
        self._updates[path] = trainer.global_step
        if trainer.is_global_zero and _has_last(trainer) and Path(path).is_file() and not _kept(path).exists():
            keep_as(Path(path), _kept(path))

    def remove_later(self, trainer: pl.Trainer, path: str) -> bool:
        """Whether a file that is no longer among the best is removed once the last checkpoint knows that."""
        later = self._applies and _has_last(trainer)
        if later:
            self._obsolete.append(path)
        return later

    def is_known(self, trainer: pl.Trainer) -> None:
        """The last checkpoint has been saved, with the scores of the files that are there."""
        if not self._applies:
            return
        best = self._callback.best_k_models
        for path in self._obsolete:
            if path not in best:
                trainer.strategy.remove_checkpoint(path)
        self._obsolete = []
        self._updates = {path: update for path, update in self._updates.items() if path in best}
        if trainer.is_global_zero:
            for path in best:
                _kept(path).unlink(missing_ok=True)

    # -- resuming -------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the last checkpoint says about the files, beside the scores."""
        return {"updates": {path: self._updates[path] for path in self._callback.best_k_models if path in self._updates}}

    def load(self, state: dict[str, Any]) -> dict[str, Any]:
        """The callback's own part of a state, with the files in its present folder."""
        state = dict(state)
        updates = dict(state.pop("updates", {}))
        if self._callback.monitor is None and state["dirpath"] != self._callback.dirpath:
            return {**state, "dirpath": self._callback.dirpath, "best_model_path": "", "last_model_path": ""}  # left to the run before
        if not self._applies:
            return state
        there, here = str(state["dirpath"]), str(self._callback.dirpath)
        scores = state["best_k_models"]
        if there != here and all(Path(path).is_relative_to(there) for path in scores):
            moved = {path: str(Path(here) / Path(path).relative_to(there)) for path in scores}
            self._elsewhere = {new: old for old, new in moved.items()}
            updates = {moved.get(path, path): update for path, update in updates.items()}
            state |= {
                "dirpath": self._callback.dirpath,
                "best_k_models": {moved[path]: score for path, score in scores.items()},
                "last_model_path": "",
                **{key: moved.get(state[key], state[key]) for key in ("best_model_path", "kth_best_model_path")},
            }
        self._updates, self._loaded = updates, True
        return state

    def start(self, trainer: pl.Trainer) -> None:
        """Put the files of a run that is resumed into the state that the checkpoint knows; start anew for what cannot be found."""
        loaded, self._loaded = self._loaded, False
        if not self._applies:
            return
        best = self._callback.best_k_models
        if not loaded:
            if trainer.is_global_zero and trainer.global_step == 0 and self._callback.dirpath is not None:
                for stale in Path(self._callback.dirpath).glob(_kept("*").name):
                    stale.unlink(missing_ok=True)
            return
        lost = [path for path in best if not self._put_back(path)] if trainer.is_global_zero else []
        for path in trainer.strategy.broadcast(lost):
            score, update = float(best.pop(path)), self._updates.pop(path, None)
            found = f"{self._callback.monitor} {score:.4g}" + ("" if update is None else f" of update {update}")
            rank_zero_warn(f"{path}: the best checkpoint before, {found}, is not there any more; the best is chosen anew from here")
        self._choose()

    def _put_back(self, path: str) -> bool:
        """Whether the file `path` is there, as the checkpoint knows it, or could be put back."""
        update = self._updates.get(path)
        for source in (Path(path), _kept(path), *(Path(old) for old in (self._elsewhere.get(path),) if old is not None)):
            found = update_of(source)
            if found is None or update not in (None, found):
                continue
            if source == _kept(path):
                source.replace(path)
            elif source != Path(path):
                replace_with(Path(path), partial(_copy, source))
            _kept(path).unlink(missing_ok=True)
            return True
        return False

    def _choose(self) -> None:
        """Lightning's own fields, from the files and scores that are left."""
        callback, scores = self._callback, self._callback.best_k_models
        worst, best = (max, min) if callback.mode == "min" else (min, max)
        callback.best_model_path = best(scores, key=scores.__getitem__) if scores else ""
        callback.best_model_score = scores.get(callback.best_model_path)
        full = bool(scores) and len(scores) == callback.save_top_k
        callback.kth_best_model_path = worst(scores, key=scores.__getitem__) if full else ""
        unbeatable = torch.tensor(math.inf if callback.mode == "min" else -math.inf)
        callback.kth_value = scores[callback.kth_best_model_path] if full else unbeatable

    @property
    def _applies(self) -> bool:
        directory = self._callback.dirpath
        return self._callback.monitor is not None and (directory is None or _is_local_file_protocol(directory))


def _copy(source: Path, file: BinaryIO) -> None:
    with source.open("rb") as old:
        shutil.copyfileobj(old, file)


def _kept(path: str) -> Path:
    return Path(path).with_name(f".{Path(path).name}.kept")


def _has_last(trainer: pl.Trainer) -> bool:
    """Whether another callback saves the last checkpoint."""
    saving = (each for each in untyped(trainer).checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    return any(each.monitor is None and not each.save_weights_only for each in saving)

"""Checkpoints between two ends of epochs; the best and the last one agree, wherever a run is killed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, Checkpoint, SafeCheckpointIO
from noisescale.execution import checkpoint as checkpoint_module
from noisescale.execution.checkpoint import in_saving_order
from noisescale.execution.checkpoint_io import update_of, whole_checkpoint
from noisescale.plans import strategies as batching
from tests.helpers.refusals import refusal_of
from tests.helpers.regression import Validated, network
from tests.helpers.system_calls import Died, dies_at, killed_at, system_calls
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Erratic(Validated):
    """Validated by a number that jumps up and down with the weights, so that the best is now an old one and now the newest."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", (weights(self).sum() * 89) % 1.0)


def planned() -> BatchSizeScheduler:
    strategy = batching.MultiStep(size=11, milestones=[0.7, 1.6], factor=2, last="partial")
    return BatchSizeScheduler(strategy, schedules.Cosine(), max_micro_batch_size=4, seed=5)


def both(folder: Path, **options: Any) -> list[pl.Callback]:
    """The two callbacks of the template, in the order that they must not be saved in."""
    last = Checkpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False, **options)
    return [last, Checkpoint(folder, "best", "score", mode="max", enable_version_counter=False)]


def trained(folder: Path, resume: bool = False, **options: Any) -> Erratic:
    """Train with both checkpoints; `resume`: from the last one, if there is one."""
    module = Erratic(network(dropout=0.3))
    path = whole_checkpoint(folder / "last.ckpt") if resume and list(folder.glob("[lp]*.ckpt")) else None
    every = options.pop("every_n_updates", None)
    options = {"enable_checkpointing": True, "plugins": [SafeCheckpointIO(patience=0)], "max_epochs": 5, **options}
    fit(module, planned(), *both(folder, every_n_updates=every), ckpt_path=path, **options)
    return module


def contents(folder: Path) -> dict[str, Any]:
    """What matters of each file: the number of updates, the weights, and what the callbacks know."""
    found: dict[str, Any] = {"names": sorted(each.name for each in folder.iterdir())}
    for name in ("last.ckpt", "best.ckpt"):
        saved = torch.load(folder / name, weights_only=True)
        best = next(state for key, state in saved["callbacks"].items() if "'score'" in key)
        scores = {Path(path).name: float(score) for path, score in best["best_k_models"].items()}
        updates = {Path(path).name: update for path, update in best["updates"].items()}
        found[name] = (saved["global_step"], str(saved["state_dict"]), str(saved["optimizer_states"]), scores, updates)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with warnings.catch_warnings(action="ignore"):
        trained(folder, every_n_updates=5)
    return folder


# -- the best and the last ----------------------------------------------------------------------------------------------------


def test_the_best_of_this_training_changes_more_than_once_and_is_not_the_last(tmp_path: Path) -> None:
    updates: list[Any] = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            updates.append(update_of(tmp_path / "best.ckpt"))

    module = Erratic(network(dropout=0.3))
    fit(module, planned(), Watch(), *both(tmp_path), enable_checkpointing=True, plugins=[SafeCheckpointIO()], max_epochs=5)
    assert len({*updates, update_of(tmp_path / "best.ckpt")} - {None}) > 1
    assert update_of(tmp_path / "best.ckpt") != update_of(tmp_path / "last.ckpt")


def test_the_last_checkpoint_knows_the_best_file_on_the_disk(tmp_path: Path) -> None:
    class Compare(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                known = contents(tmp_path)["last.ckpt"][-1]
                assert known == {"best.ckpt": update_of(tmp_path / "best.ckpt")}

    fit(Erratic(network()), planned(), Compare(), *both(tmp_path), enable_checkpointing=True, plugins=[SafeCheckpointIO()], max_epochs=5)


def test_the_order_is_best_first_whatever_was_given() -> None:
    last, best, stock = Checkpoint(), Checkpoint(monitor="a"), ModelCheckpoint(monitor="b")
    both_in_one, other = ModelCheckpoint(monitor="c", save_last=True), pl.Callback()
    ordered = in_saving_order([last, both_in_one, other, best, stock])
    assert ordered == [best, stock, other, both_in_one, last]
    assert in_saving_order(ordered) == ordered


def died_and_resumed(folder: Path, at: int, dying: Callable[[int], AbstractContextManager[None]], **options: Any) -> None:
    with pytest.raises(Died), dying(at):
        trained(folder, **options)
    trained(folder, resume=True, **options)


def calls_of(folder: Path, **options: Any) -> int:
    with system_calls() as calls:
        trained(folder, **options)
    shutil.rmtree(folder)
    return len(calls)


def compare(folder: Path, whole: Path, at: int) -> None:
    mine, other = contents(folder), contents(whole)
    assert mine["names"] == other["names"] == ["best.ckpt", "last.ckpt", "previous.ckpt"], at
    for name in ("best.ckpt", "last.ckpt"):
        assert mine[name] == other[name], (at, name)


@pytest.mark.filterwarnings("ignore:.*resuming from.*")
def test_a_run_that_dies_at_a_system_call_ends_with_the_same_files(whole: Path, tmp_path: Path) -> None:
    calls = calls_of(tmp_path / "count", every_n_updates=5)
    for at in range(calls // 2, calls, 23):
        died_and_resumed(tmp_path / str(at), at, dies_at, every_n_updates=5)
        compare(tmp_path / str(at), whole, at)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*resuming from.*")
@pytest.mark.parametrize(("every", "links"), [(5, True), (None, False)])
def test_a_run_that_dies_at_any_system_call_ends_with_the_same_files(
    every: int | None, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _refuse)
    trained(tmp_path / "whole", every_n_updates=every)
    for at in range(calls_of(tmp_path / "count", every_n_updates=every)):
        died_and_resumed(tmp_path / str(at), at, dies_at, every_n_updates=every)
        compare(tmp_path / str(at), tmp_path / "whole", at)


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(1, "no hard links")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*resuming from.*", "ignore:.*fork.*:DeprecationWarning")
def test_a_run_that_is_killed_at_any_system_call_ends_with_the_same_files(whole: Path, tmp_path: Path) -> None:
    for at in range(0, calls_of(tmp_path / "count", every_n_updates=5), 4):
        child = os.fork()
        if child == 0:
            try:
                with killed_at(at):
                    trained(tmp_path / str(at), every_n_updates=5)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == 9
        trained(tmp_path / str(at), resume=True, every_n_updates=5)
        compare(tmp_path / str(at), whole, at)

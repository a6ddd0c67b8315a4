"""The best and the last checkpoint agree, wherever a run is killed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from noisescale.callbacks import Checkpoint, SafeCheckpointIO
from noisescale.execution.checkpoint import in_saving_order
from noisescale.execution.checkpoint_io import update_of, whole_checkpoint
from tests.helpers.checkpoints import Erratic, planned
from tests.helpers.regression import network
from tests.helpers.system_calls import Died, dies_at, killed_at, system_calls
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]


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


def test_the_last_checkpoint_knows_the_best_file_on_the_disk(tmp_path: Path) -> None:
    """In this training, where the best changes more than once, and is not the last."""
    updates: list[Any] = []

    class Compare(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                updates.append(update_of(tmp_path / "best.ckpt"))
                assert contents(tmp_path)["last.ckpt"][-1] == {"best.ckpt": updates[-1]}

    module = Erratic(network(dropout=0.3))
    fit(module, planned(), Compare(), *both(tmp_path), enable_checkpointing=True, plugins=[SafeCheckpointIO()], max_epochs=5)
    assert len({*updates}) > 1
    assert update_of(tmp_path / "best.ckpt") != update_of(tmp_path / "last.ckpt")


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


def test_a_best_that_is_newer_than_the_last_is_put_back(whole: Path, tmp_path: Path) -> None:
    """A run that is resumed need not come to the same best again: it may be stopped before that, or given more epochs."""
    best_at = contents(whole)["best.ckpt"][0]
    folder = tmp_path / "run"
    with pytest.raises(Died), dies_at(_save_of(tmp_path, "best.ckpt", best_at)):
        trained(folder, every_n_updates=None)
    assert update_of(folder / "best.ckpt") == best_at
    known = contents(folder)["last.ckpt"]
    assert known[0] < best_at
    trained(folder, resume=True, max_steps=known[0] + 1)  # where nothing new is the best
    assert contents(folder)["last.ckpt"][-1] == {"best.ckpt": update_of(folder / "best.ckpt")} == known[-1]
    assert not list(folder.glob(".*"))


def _save_of(tmp_path: Path, name: str, update: int) -> int:
    """The number of the first system call after this save of this file."""
    at: list[int] = []

    class Note(SafeCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path, storage_options)
            if Path(path).name == name and checkpoint["global_step"] == update:
                at.append(len(calls))

    with system_calls() as calls:
        trained(tmp_path / "count", plugins=[Note(patience=0)])
    return at[0]


def test_a_run_that_goes_on_in_another_folder_takes_the_best_with_it(whole: Path, tmp_path: Path) -> None:
    trained(tmp_path / "a", max_steps=19)  # four of five epochs
    best = contents(tmp_path / "a")["best.ckpt"]
    module = Erratic(network(dropout=0.3))
    options: dict[str, Any] = {"enable_checkpointing": True, "plugins": [SafeCheckpointIO()], "max_epochs": 5}
    fit(module, planned(), *both(tmp_path / "b"), ckpt_path=tmp_path / "a" / "last.ckpt", **options)
    assert contents(tmp_path / "b")["best.ckpt"] == best  # the last epoch is not better
    assert contents(tmp_path / "b")["last.ckpt"] == contents(whole)["last.ckpt"]
    shutil.move(tmp_path / "a", tmp_path / "c")  # a run whose folder was moved is its own
    (tmp_path / "c" / "best.ckpt").rename(tmp_path / "c" / "kept")
    with pytest.warns(
        UserWarning, match=r"c/best.ckpt: the best checkpoint before, score 0.\d+ of update 19, is not there any more; the best "
    ):
        trained(tmp_path / "c", resume=True)
    assert contents(tmp_path / "c")["last.ckpt"][-1] == {"best.ckpt": update_of(tmp_path / "c" / "best.ckpt")}


@pytest.mark.slow
def test_of_the_best_k_none_is_removed_before_the_last_checkpoint_knows_that(tmp_path: Path) -> None:
    there: list[bool] = []

    class Look(SafeCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            if Path(path).name == "last.ckpt" and Path(path).exists():
                there.extend((tmp_path / name).exists() for name in contents_of_best(tmp_path / "last.ckpt"))
            super().save_checkpoint(checkpoint, path, storage_options)

    best = Checkpoint(tmp_path, "{epoch}", "score", mode="max", save_top_k=2)
    last = Checkpoint(tmp_path, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    fit(Erratic(network(dropout=0.3)), planned(), last, best, enable_checkpointing=True, plugins=[Look()], max_epochs=5)
    assert len(there) > 6
    assert all(there)
    assert sorted(contents_of_best(tmp_path / "last.ckpt")) == sorted(each.name for each in tmp_path.glob("epoch=*"))


def contents_of_best(path: Path) -> list[str]:
    states = torch.load(path, weights_only=True)["callbacks"].items()
    return [Path(each).name for key, state in states if "'score'" in key for each in state["best_k_models"]]

"""Checkpoints between two ends of epochs; the best and the last one agree, wherever a run is killed."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
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

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]


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


# -- between two ends of epochs -----------------------------------------------------------------------------------------------


class Recording(SafeCheckpointIO):
    """Keeps what was saved, and a copy of each file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.saved = folder, list[tuple[str, int]]()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self.saved.append((Path(path).name, checkpoint["global_step"]))
        shutil.copy(path, self.folder / f"{checkpoint['global_step']}.ckpt")


def recorded(tmp_path: Path, module: pl.LightningModule, *callbacks: pl.Callback, **options: Any) -> Recording:
    (tmp_path / "all").mkdir(exist_ok=True)
    io = Recording(tmp_path / "all")
    fit(module, *callbacks, enable_checkpointing=True, plugins=[io], **options)
    return io


def test_saves_every_n_updates_change_nothing_and_can_be_resumed(tmp_path: Path) -> None:
    expected = Erratic(network(dropout=0.3, norm=True))
    fit(expected, planned())
    module = Erratic(network(dropout=0.3, norm=True))
    last = Checkpoint(tmp_path / "run", "last", every_n_updates=4, save_on_train_epoch_end=True, enable_version_counter=False)
    io = recorded(tmp_path, module, planned(), last)
    assert torch.equal(weights(module), weights(expected))
    ends = [9, 13, 16]
    assert io.saved == [("last.ckpt", step) for step in sorted([4, 8, 12, 16, *ends])]
    for step in (4, 12):
        assert "partial_gradient" not in torch.load(tmp_path / "all" / f"{step}.ckpt", weights_only=True)
        resumed = Erratic(network(dropout=0.3, norm=True))
        trainer = fit(resumed, planned(), ckpt_path=tmp_path / "all" / f"{step}.ckpt")
        assert torch.equal(weights(resumed), weights(expected))
        assert trainer.global_step == ends[-1]


def test_the_end_of_an_epoch_is_saved_even_if_its_last_update_was(tmp_path: Path) -> None:
    """What comes after the update, a validation and the best, is in the second one only."""
    last = Checkpoint(tmp_path / "run", "last", every_n_updates=9, save_on_train_epoch_end=True, enable_version_counter=False)
    assert recorded(tmp_path, Erratic(network()), planned(), last).saved == [("last.ckpt", step) for step in (9, 9, 13, 16)]


def test_without_a_plan_it_saves_between_updates_too(tmp_path: Path) -> None:
    last = Checkpoint(tmp_path / "run", every_n_updates=2, save_top_k=-1)
    io = recorded(tmp_path, Erratic(network()), last, accumulate_grad_batches=4, max_epochs=1)
    assert [step for _, step in io.saved] == [2, 4, 4]  # 15 batches of 7
    assert recorded(tmp_path / "all", Erratic(network()), Checkpoint(tmp_path, every_n_updates=1), fast_dev_run=True).saved == []


def test_minutes_are_counted_from_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Minute(pl.Callback):
        def on_before_optimizer_step(self, *_: Any) -> None:
            now[0] += 60

    last = Checkpoint(tmp_path / "run", "last", every_n_minutes=2.5, save_on_train_epoch_end=True, enable_version_counter=False)
    io = recorded(tmp_path, Erratic(network()), Minute(), planned(), last)
    assert [step for _, step in io.saved] == [3, 6, 9, 9, 12, 13, 16, 16]


class _Ranks:
    """Stands for a trainer on one of two devices: what the first one broadcasts comes to the second."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.first, self.second = _Rank(self.sent.append), _Rank(lambda wait: None)
        self.second.strategy.broadcast = lambda wait: self.sent[-1]  # type: ignore[method-assign]


class _Rank:
    def __init__(self, send: Any) -> None:
        self.world_size, self.strategy = 2, self
        self.send = send

    def broadcast(self, wait: int) -> int:
        self.send(wait)
        return wait


def test_several_devices_go_by_the_clock_of_the_first_and_seldom_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ranks = [0.0], _Ranks()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first, second = checkpoint_module._SharedClock(), checkpoint_module._SharedClock()
    saves = []
    for step in range(1, 5001):
        now[0] += 0.1 if step < 2500 else 0.3  # batches grow
        mine: Any = ranks.first
        theirs: Any = ranks.second
        due = first.has_passed(60, step, mine)
        with monkeypatch.context() as skewed:
            skewed.setattr(time, "monotonic", lambda: 7 * now[0])
            assert second.has_passed(60, step, theirs) == due
            if due:
                second.start(step)
        if due:
            first.start(step)
            saves.append(now[0])
    gaps = [later - earlier for earlier, later in pairwise(saves)]
    assert 60 - 1e-6 <= min(gaps) <= max(gaps) <= 100
    assert len(saves) >= 13
    assert len(ranks.sent) <= 15 * len(saves)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"every_n_updates": 0},
            "every_n_updates=0: must be a whole number of updates, at least 1; null for none between the ends of epochs",
        ),
        ({"every_n_updates": 2.5}, "every_n_updates=2.5: must be a whole number of updates, at least 1; "),
        ({"every_n_updates": "often"}, "every_n_updates=often: must be a whole number of updates, at least 1; "),
        ({"every_n_minutes": 0}, "every_n_minutes=0: must be a finite number in (0, inf), in minutes; null for none between the ends of"),
        ({"every_n_minutes": float("inf")}, "every_n_minutes=inf: must be a finite number in (0, inf), in minutes; "),
        ({"every_n_minutes": True}, "every_n_minutes=True: must be a finite number in (0, inf), in minutes; "),
        (
            {"every_n_updates": 5, "monitor": "val/loss"},
            "every_n_updates=5: cannot be combined with monitor=val/loss, which is compared after a validation; give it to the callback of",
        ),
    ],
)
def test_intervals_that_make_no_sense_are_refused(options: dict[str, Any], line: str) -> None:
    assert refusal_of(lambda: Checkpoint(**options)).startswith(line)

"""Checkpoints between two ends of epochs."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from noisescale.callbacks import Checkpoint, SafeCheckpointIO
from noisescale.execution import checkpoint as checkpoint_module
from tests.helpers.checkpoints import Erratic, planned
from tests.helpers.refusals import refusal_of
from tests.helpers.regression import network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]


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

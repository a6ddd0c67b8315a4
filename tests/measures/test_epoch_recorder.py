"""epochs.csv holds the measurements of each epoch."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl

from noisescale.callbacks import BatchSizeScheduler, EpochRecorder
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Validated, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def test_a_row_per_epoch_with_totals_and_rates(tmp_path: Path) -> None:
    fit(Validated(network()), BatchSizeScheduler(batching.Fixed(size=10)), EpochRecorder(tmp_path / "epochs.csv"))
    rows = read_rows(tmp_path / "epochs.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["updates"]) for row in rows] == [11, 22, 33]
    assert [int(row["examples_seen"]) for row in rows] == [N, 2 * N, 3 * N]
    assert all(float(row["seconds"]) > 0 and float(row["examples_per_second"]) > 0 for row in rows)
    assert len({row["val/loss"] for row in rows}) == 3


def test_an_epoch_without_validation_has_no_validation_figures(tmp_path: Path) -> None:
    recorder = EpochRecorder(tmp_path / "epochs.csv")
    fit(Validated(network()), BatchSizeScheduler(batching.Fixed(size=10)), recorder, max_epochs=5, check_val_every_n_epoch=2)
    assert [bool(row["val/loss"]) for row in read_rows(tmp_path / "epochs.csv")] == [False, True, False, True, False]


class Clock(pl.Callback):
    """A clock on which a micro-batch takes a second, a validation 1000 seconds, and the time between two runs a million."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += 1.0

    def on_validation_batch_end(self, *_: Any) -> None:
        self.now += 1000.0


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch, start: float = 0.0, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    clock = Clock(start)
    monkeypatch.setattr("noisescale.measures.epochs.time", SimpleNamespace(perf_counter=lambda: clock.now, time=time.time))
    strategy = batching.Fixed(size=10, last="partial")
    batches = BatchSizeScheduler(strategy, max_micro_batch_size=5)
    return fit(Validated(network()), clock, batches, EpochRecorder(folder / "epochs.csv"), *callbacks, **options)


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", ["stopped", "failed"])
@pytest.mark.parametrize("interval", [1.0, 4])
def test_seconds_are_those_of_both_runs(how: str, interval: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path / "whole", monkeypatch, val_check_interval=interval)
    expected = read_rows(tmp_path / "whole" / "epochs.csv")
    assert [row["seconds"] for row in expected] == ["21.0"] * 3  # ten updates of two micro-batches and one of one
    assert [row["examples_per_second"] for row in expected] == [str(round(N / 21, 1))] * 3
    folder = tmp_path / "parts"
    if how == "stopped":
        trainer = recorded(folder, monkeypatch, 5000.0, val_check_interval=interval, max_steps=17)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
    else:
        with pytest.raises(Stop):
            recorded(folder, monkeypatch, 5000.0, SaveAndDie(33, tmp_path / "saved.ckpt"), val_check_interval=interval)
    assert [row["epoch"] for row in read_rows(folder / "epochs.csv")] == ["1"]  # the second has not ended
    recorded(folder, monkeypatch, 1e6, val_check_interval=interval, ckpt_path=tmp_path / "saved.ckpt")
    assert read_rows(folder / "epochs.csv") == expected

"""Runs that write into the same folder, as without a logger, keep their rows apart and lose none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.processes import started, wait_until
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

UPDATES = 6
"""Of 103 examples in twenties, in each epoch."""


def run(folder: Path, lr: float, epochs: int, path: Path | None = None, **options: Any) -> pl.Trainer:
    """A run without a logger, whose files are in `folder`."""
    module = Plain(network(), lambda parameters: torch.optim.SGD(parameters, lr=lr))
    monitor = NoiseScaleMonitor(path)
    return fit(module, BatchSizeScheduler(batching.Fixed(20)), monitor, default_root_dir=folder, max_epochs=epochs, **options)


def contents(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """(step, lr) of the rows of each file."""
    return {path.name: [(row["step"], float(row["lr"])) for row in read_rows(path)] for path in sorted(folder.glob("steps.csv*"))}


def rows(lr: float, end: int, start: int = 0) -> list[tuple[str, float]]:
    return [(str(step), lr) for step in range(start, end)]


def test_each_run_in_one_process_has_a_file(tmp_path: Path) -> None:
    for number, lr in enumerate((0.1, 0.2, 0.3), start=1):
        run(tmp_path, lr, number)
    assert contents(tmp_path) == {"steps.csv": rows(0.3, 18), "steps.csv.1": rows(0.1, 6), "steps.csv.2": rows(0.2, 12)}


def test_a_resumed_run_continues_its_own_file(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12)}


def test_a_resumed_run_does_not_continue_the_file_of_another_run(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.2, 3)
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12, 6), "steps.csv.1": rows(0.1, 6), "steps.csv.2": rows(0.2, 18)}


def test_nor_of_a_run_that_has_not_come_so_far(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 2).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.2, 1)
    run(tmp_path, 0.1, 3, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 18, 12), "steps.csv.1": rows(0.1, 12), "steps.csv.2": rows(0.2, 6)}


def test_nor_of_a_run_with_the_same_rate_and_other_batches(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    module = Plain(network())
    fit(module, BatchSizeScheduler(batching.Fixed(10)), NoiseScaleMonitor(), default_root_dir=tmp_path, max_epochs=1)
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12, 6), "steps.csv.1": rows(0.1, 6), "steps.csv.2": rows(0.1, 11)}


def test_a_second_branch_from_a_checkpoint_does_not_remove_the_rows_of_the_first(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.1, 3, ckpt_path=tmp_path / "a.ckpt")
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12), "steps.csv.1": rows(0.1, 18)}


def test_in_a_file_of_its_own_the_rows_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    run(tmp_path, 0.1, 1, path).save_checkpoint(tmp_path / "a.ckpt")
    for epochs in (3, 2):
        run(tmp_path, 0.1, epochs, path, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12)}


def test_a_run_that_goes_on_without_the_state_of_a_monitor_has_a_file_of_its_own(tmp_path: Path) -> None:
    module = Plain(network())
    fit(module, BatchSizeScheduler(batching.Fixed(20)), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.2, 2)
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12, 6), "steps.csv.1": rows(0.2, 12)}
    assert read_rows(tmp_path / "steps.csv")[0]["examples_seen"] == "103"


def test_one_monitor_in_a_second_fit_of_its_trainer_goes_on_in_its_file(tmp_path: Path) -> None:
    module, monitor = Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv")
    trainer = fit(module, BatchSizeScheduler(batching.Fixed(20)), monitor, max_epochs=1)
    data = trainer.fit_loop._data_source.instance
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, data)
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12)}


class Slow(pl.Callback):
    """Waits in each update until the other run has started, so that the two overlap."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        deadline = time.monotonic() + 60
        while trainer.global_step == 3 and not Path(trainer.default_root_dir, "steps.csv.1").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def overlapping(folder: str) -> None:
    """The run in the other process, which writes each row at once."""
    module = Plain(network(), lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    monitor = NoiseScaleMonitor(write_every=1)
    fit(module, BatchSizeScheduler(batching.Fixed(20)), monitor, Slow(), default_root_dir=folder, max_epochs=2)


@pytest.mark.slow
def test_two_runs_at_once_in_two_processes_have_a_file_each(tmp_path: Path) -> None:
    code = f"from tests.measures.test_step_file import overlapping; overlapping({str(tmp_path)!r})"
    other = started("-c", code)
    wait_until(lambda: len(read_rows(tmp_path / "steps.csv")) >= 3, other)
    run(tmp_path, 0.2, 1)
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert contents(tmp_path) == {"steps.csv": rows(0.2, 6), "steps.csv.1": rows(0.1, 12)}

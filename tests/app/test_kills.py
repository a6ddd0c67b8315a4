"""A run that is killed at any moment and resumed is the run that was never killed: a few kills of each kind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import left_behind
from tests.helpers.deaths import Death, arm
from tests.helpers.processes import python


@pytest.mark.slow
def test_killed_runs_are_resumed_to_the_same_end(tmp_path: Path) -> None:
    """To look at one that differs, run the command by hand, with --folder."""
    done = python("-m", "tests.helpers.kills", "--seed", "7", "--kills", "14", "--folder", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stdout


def _in_a_fork(job: Callable[[], Any]) -> int:
    if (child := os.fork()) == 0:
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("death", "left"),
    [
        (Death("steps.csv write", 2, "before"), "1234"),
        (Death("steps.csv write", 2, "half"), "123456"),
        (Death("steps.csv write", 2, "after"), "1234"),  # it is not flushed
        (Death("steps.csv write", 3, "half"), "12345678"),
        (Death("steps.csv fsync", 1, "after"), "12345678"),
        (Death("epochs.csv write", 1, "before"), "12345678"),
    ],
)
def test_a_process_dies_where_it_is_told_to(death: Death, left: str, tmp_path: Path) -> None:
    def job() -> None:
        arm(death)
        with open(tmp_path / "steps.csv", "w") as file:
            file.write("1234")
            file.flush()
            file.write("5678")
            file.flush()
            os.fsync(file.fileno())
        with (tmp_path / "epochs.csv").open("wb") as other:
            other.write(b"12")

    died = _in_a_fork(job) == -signal.SIGKILL
    assert died == (death.nth < 3)
    assert (tmp_path / "steps.csv").read_text() == left


def test_differences_are_seen(tmp_path: Path) -> None:
    """The comparison can fail, for each thing that is compared."""
    from torch.utils.tensorboard import SummaryWriter

    def run(name: str, value: float) -> Path:
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        state = {"state_dict": {"w": torch.tensor([value])}, "optimizer_states": [{"m": value}], "global_step": 3}
        for checkpoint in ("last", "best"):
            torch.save(state, folder / "checkpoints" / f"{checkpoint}.ckpt")
        (folder / "steps.csv").write_text(f"step,loss\n0,{value}\n")
        (folder / "epochs.csv").write_text(f"epoch,loss,seconds\n1,{value},{name}\n")
        (folder / "results.json").write_text(f'{{"test/acc": {value}, "status": "completed", "seconds": "{name}"}}')
        with SummaryWriter(folder) as writer:
            writer.add_scalar("loss", value, 3)
        return folder

    first, same, other = run("first", 1.0), run("same", 1.0), run("other", 2.0)
    assert not any(left_behind.compare(first, same).values())
    assert all(left_behind.compare(first, other).values())
    for path in [*other.iterdir(), *(other / "checkpoints").iterdir()]:
        if path.is_file():
            path.unlink()
    assert all(left_behind.compare(first, other).values())

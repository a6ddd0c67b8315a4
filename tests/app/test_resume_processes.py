"""resume=<run dir> in processes of their own: after a kill, beside a run that still lives, on two devices."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import process, results_of, run_dir
from tests.helpers.processes import started, wait_until
from tests.helpers.resuming import SHORT, assert_same_run

pytestmark = pytest.mark.slow

LONG = ("epochs=12", "threads=1", "logger=csv-only", "batch.last=partial", "data.subset_size=400", "max_micro_batch_size=20")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    done = process(*LONG, run_dir(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("seconds", [0.0, 0.21, 0.47])
def test_a_killed_run_is_resumed_as_if_it_had_not_been(seconds: float, whole: Path, tmp_path: Path) -> None:
    """Its workers may live on for some seconds; they do not hold the lock."""
    folder = tmp_path / "a b"
    running = started("train.py", *LONG, "data.num_workers=1", run_dir(folder))
    wait_until((folder / "checkpoints" / "last.ckpt").exists, running)
    time.sleep(seconds)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    done = process(f"resume={folder}", "data.num_workers=0")
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, whole)
    assert not (folder / ".lock").exists()


def test_a_run_that_lives_has_its_folder_for_itself(tmp_path: Path) -> None:
    running = started("train.py", *SHORT, "epochs=100000", run_dir(tmp_path))
    wait_until((tmp_path / "checkpoints" / "last.ckpt").exists, running)
    for words in ((*SHORT, run_dir(tmp_path)), (f"resume={tmp_path}",)):
        refused = process(*words)
        assert refused.returncode == 2
        assert f": process {running.pid} on " in refused.stderr
        assert refused.stderr.count("\n") == 1
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    steps = [int(row["step"]) for row in read_rows(tmp_path / "steps.csv")]
    assert steps == list(range(len(steps)))
    assert not (tmp_path / "results.json").exists()


def test_two_devices_go_on_together_and_test_what_was_left(tmp_path: Path) -> None:
    for name, limit in (("whole", "-1"), ("part", "8")):
        done = process(*SHORT, "trainer=ddp_cpu", f"trainer.max_steps={limit}", run_dir(tmp_path / name))
        assert done.returncode == 0, done.stderr
    done = process(f"resume={tmp_path / 'part'}", "trainer.max_steps=-1")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "part", tmp_path / "whole")

    (tmp_path / "part" / "results.json").unlink()
    done = process(f"resume={tmp_path / 'part'}")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "part", tmp_path / "whole")
    done = process(f"resume={tmp_path / 'part'}", "epochs=4", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "part")["updates"] == 24

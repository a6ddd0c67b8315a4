"""branches.py: the front door of the study of branches."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, branches, run, run_dir
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

FEW = (*QUICK, "optimizer=sgd", "batch.size=8", "branches.at=[0.5]", "branches.sizes=[4,8]", "branches.seeds=2", "branches.length=0.3")
"""180 training examples, branches of 64."""


def study(folder: Path, *words: str) -> list[dict[str, str]]:
    outcome = branches(*FEW, *words, run_dir(folder))
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    return read_rows(folder / "branches.csv")


def test_a_study_leaves_its_files_and_is_not_trained_twice(tmp_path: Path) -> None:
    first = study(tmp_path)
    results = json.loads((tmp_path / "branches.json").read_text())
    assert results["points"][0]["rules"][0]["critical"]["at_least"] >= 4
    assert results["points"][0]["num_examples"] == 180
    assert (tmp_path / "branches.png").exists()
    assert study(tmp_path) == first, "the seconds of a branch would differ"
    outcome = branches(*FEW, "branches.tolerance=0.3", run_dir(tmp_path))
    assert outcome.status == 2
    problem = "has the measurements of a training with branches.tolerance=0.2; go on with the same, or choose another folder"
    assert outcome.lines == [f"error: branches.tolerance=0.3: {tmp_path} {problem}"]


@pytest.mark.slow
def test_a_run_is_branched_from_its_last_checkpoint(tmp_path: Path) -> None:
    trained, studied = tmp_path / "run", tmp_path / "study"
    assert run(*QUICK, "optimizer=momentum", "scheduler=constant", "batch.size=8", run_dir(trained)).status == 0
    words = ("branches.sizes=[4,8]", "branches.seeds=2", "branches.length=0.3")
    outcome = branches(f"run={trained}", *words, run_dir(studied))
    assert outcome.status == 0, outcome.err
    rows = read_rows(studied / "branches.csv")
    assert {float(row["epoch"]) for row in rows} == {184 / 180}
    assert not (studied / "point-0.ckpt").exists(), "the training was carried out again"
    other = branches(f"run={trained}", *words, "optimizer.momentum=0.5", run_dir(tmp_path / "other"))
    assert other.status == 2
    assert "optimizer.momentum=0.5: the checkpoint was trained with optimizer.momentum=0.9" in other.err


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "branches.at=[3] epochs=2",
            "branches.at=[3.0]: must be at most epochs=2, when the training ends; branch earlier, or train longer",
        ),
        ("run={tmp}/none", "run={tmp}/none: no such folder; give the folder of a run, such as outputs/train/..."),
        ("resume=outputs", "resume=outputs: goes on with a training, and this command studies one; give run=<its folder>"),
        ("trainer=ddp_cpu", "trainer.devices=2: branches.py runs on one device; use trainer=auto, cpu or gpu"),
        ("trainer.max_steps=5", "trainer.max_steps=5: would end the training that branches.py studies; leave it out"),
        ("averaging=ema", "averaging=ema: branches.py looks at the weights themselves, not at their average; use averaging=none"),
        ("scheduler=none", "scheduler=none: leaves the learning rate to the module, but branches.py sets it; choose a schedule"),
    ],
)
def test_what_cannot_be_branched_is_one_line(tmp_path: Path, words: str, line: str) -> None:
    outcome = branches(*words.replace("{tmp}", str(tmp_path)).split(), run_dir(tmp_path / "study"))
    assert (outcome.status, outcome.lines) == (2, [f"error: {line.replace('{tmp}', str(tmp_path))}"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_study_that_is_stopped_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    words = [*FEW, "branches.seeds=6", run_dir(tmp_path / "stopped")]
    started = subprocess.Popen(
        [sys.executable, "branches.py", *words], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while started.poll() is None and len(read_rows(tmp_path / "stopped" / "branches.csv")) < 2:
        time.sleep(0.02)
    started.send_signal(number)
    _, err = started.communicate()
    before = read_rows(tmp_path / "stopped" / "branches.csv")
    assert 2 <= len(before) < 12
    if number == signal.SIGINT:
        assert started.returncode == 130
        assert err.startswith("error: interrupted by SIGINT; what was done is in ")
        assert "python branches.py" in err.splitlines()[1]
    after = study(tmp_path / "stopped", "branches.seeds=6")
    assert after[: len(before)] == before
    whole = study(tmp_path / "whole", "branches.seeds=6")
    assert [{**row, "seconds": ""} for row in after] == [{**row, "seconds": ""} for row in whole]

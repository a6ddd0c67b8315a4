"""A study that a signal ends says in one line what is kept, and the command that goes on; whichever signal, whenever it comes."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import curvature as curvature_script
from noisescale.signals import SIGNALS
from tests.helpers.front_door import QUICK, Outcome, branches, outcome_of, range_test, run, run_dir
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.usefixtures("default_handlers"), *(pytest.mark.filterwarnings(line) for line in ignored)]


def raising(number: int, after: int = 1) -> Any:
    """A function that raises a signal at its n-th call, in the middle of a fit."""
    calls = 0

    def call(*_: object, **__: object) -> bool:
        nonlocal calls
        calls += 1
        if calls == after:
            signal.raise_signal(number)
        return False

    return call


def assert_interrupted(outcome: Outcome, number: signal.Signals, kept: str, *words: str) -> None:
    assert outcome.status == 128 + number
    line, command = outcome.lines
    assert line == f"error: interrupted by {number.name}; {kept}:"
    assert shlex.split(command) == ["python", *words]


@pytest.mark.cases(1)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_range_test_keeps_nothing(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisescale.studies.range_study.has_diverged", raising(number, 5))
    outcome = range_test(*QUICK, "batch.size=32", run_dir(tmp_path))
    kept = "a range test that has not ended leaves nothing; to begin it again"
    assert_interrupted(outcome, signal.Signals(number), kept, "range_test.py", *QUICK, "batch.size=32", f"hydra.run.dir={tmp_path}")
    assert not (tmp_path / "range_test.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_measurement_of_curvature_keeps_what_was_measured(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*QUICK, "model.widths=[8]", "logger=csv-only", run_dir(tmp_path / "run")).status == 0
    words = (f"ckpt={tmp_path}/run", "curvature.batches=2", "curvature.iterations=2", "curvature.examples=60")
    monkeypatch.setattr("noisescale.measures.sharpness.Meter.tick", raising(number, 1))
    outcome = outcome_of(curvature_script, *words, run_dir(tmp_path / "early"))
    again = ("curvature.py", *words)
    folder = tmp_path / "early"
    assert_interrupted(outcome, signal.Signals(number), "nothing was measured; to measure all of it", *again, f"hydra.run.dir={folder}")
    monkeypatch.setattr("noisescale.measures.sharpness.Meter.tick", raising(number, 30))
    outcome = outcome_of(curvature_script, *words, run_dir(tmp_path / "late"))
    assert (outcome.status, outcome.lines[0].partition(";")[0]) == (128 + number, f"error: interrupted by {signal.Signals(number).name}")
    assert "late/curvature.json; to measure all of it:" in outcome.lines[0]
    assert outcome.out == ""


@pytest.mark.slow
def test_branches_of_a_run_go_on_with_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has the words that were typed, not those of the record of the run, without which it would study another training."""
    assert run(*QUICK, "optimizer=momentum", "scheduler=constant", "batch.size=8", run_dir(tmp_path / "run")).status == 0
    words = (f"run={tmp_path}/run", "branches.sizes=[4,8]", "branches.seeds=2", "branches.length=0.3")
    with monkeypatch.context() as patched:
        patched.setattr("noisescale.studies.branch_study.write_rows", raising(signal.SIGTERM, 3))
        outcome = branches(*words, run_dir(tmp_path / "study"))
    assert outcome.status == 143
    python, script, *again = shlex.split(outcome.lines[-1])
    assert (python, script) == ("python", "branches.py")
    assert again == [*words, f"hydra.run.dir={tmp_path}/study"]
    assert branches(*again).status == 0


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "plan.py", "range_test.py", "branches.py", "recommend.py", "curvature.py", "report.py"])
def test_ctrl_c_while_modules_are_imported_is_one_line(script: str) -> None:
    """Before a command can handle signals. Python then ends with the signal itself, which a shell shows as 130."""
    code = (
        "import sys, signal, runpy\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'noisescale.app.' + ('report' if 'report' in sys.argv[1] else 'command'):\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "error: interrupted by SIGINT, with nothing to save\n")

"""train.py out of memory: one line with the command that goes on with half the micro-batch, which is the same run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from noisescale.app.command import FAILED
from noisescale.files import read_rows
from tests.helpers.front_door import Outcome, checkpoint_of, process, results_of, run, run_dir
from tests.helpers.rounding import assert_equal_to_rounding
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

HUNGRY = (
    *("module._target_=tests.helpers.hungry.HungryInDouble", "data._target_=tests.helpers.own.Data", "scheduler=constant"),
    *("batch.size=20", "epochs=3", "threads=1", "logger=csv-only"),
)
"""Three epochs of 5 updates, of 100 examples."""

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB"


def error_of(outcome: Outcome) -> str:
    """The error of a run, which is its last line."""
    assert outcome.status == FAILED, outcome
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    return outcome.lines[-1].removeprefix("error: ")


def assert_same_to_rounding(folder: Path, other: Path, losses_from: int = 0) -> None:
    """The same updates and the same weights; and the same losses from an update on."""
    (mine, theirs) = (checkpoint_of(each)["state_dict"] for each in (folder, other))
    for name in theirs:
        assert_equal_to_rounding(mine[name], theirs[name], 20 * 15)
    for mine, theirs in zip(*(read_rows(each / "steps.csv") for each in (folder, other)), strict=True):
        assert [mine[name] for name in ("step", "examples_seen", "lr", "effective_batch_size")] == [
            theirs[name] for name in ("step", "examples_seen", "lr", "effective_batch_size")
        ]
        if int(mine["step"]) >= losses_from:
            assert float(mine["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-12)


@pytest.mark.slow
def test_the_printed_command_goes_on_with_the_same_run(tmp_path: Path) -> None:
    smaller, cut = tmp_path / "smaller", tmp_path / "cut"
    assert run(*HUNGRY, "max_micro_batch_size=5", run_dir(smaller)).status == 0
    line = error_of(run(*HUNGRY, "max_micro_batch_size=10", "module.limit=9", "module.after=13", run_dir(cut)))
    saved, command = f"saved {cut}/checkpoints/last.ckpt", f"python train.py resume={cut} max_micro_batch_size=5"
    assert line == (
        f"not enough memory at update 6, in a micro-batch of 10 examples ({SAID}); {saved}; go on with half the micro-batch: {command}"
    )
    results = results_of(cut)
    assert (results["status"], results["reason"], results["updates"]) == ("failed", line, 6)
    outcome = run(*shlex.split(command)[2:])
    assert outcome.status == 0, outcome.err
    assert_same_to_rounding(cut, smaller)
    assert results_of(cut)["test_error"] == pytest.approx(results_of(smaller)["test_error"], rel=1e-12)


UNSAVED = "it may have changed a part of the weights, so nothing was saved; optimizer.foreach=false needs less memory"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "max_micro_batch_size=10 module.place=step module.after=13",
            "update 6, in the optimizer's step ({said}); kept: checkpoints/last.ckpt, steps.csv, epochs.csv; {unsaved}; {go_on}",
        ),
        pytest.param(
            "module.place=validation module.after=7",
            "update 10, in a validation ({said}); {saved}; lower data.eval_batch_size, which does not change the result; {go_on}",
            marks=pytest.mark.slow,
        ),
        pytest.param("module.place=step", "update 0, in the optimizer's step ({said}); kept: steps.csv; {unsaved}", marks=pytest.mark.slow),
        pytest.param(
            "max_micro_batch_size=1 module.limit=0 module.after=9",
            "update 0, in a micro-batch of 1 example ({said}); {saved}; a smaller micro-batch is not possible: use a smaller model, "
            "or another device; {go_on}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_where_half_the_micro_batch_would_not_help(words: str, line: str, tmp_path: Path) -> None:
    found = error_of(run(*HUNGRY, "module.limit=9", *words.split(), run_dir(tmp_path)))
    saved, go_on = f"saved {tmp_path}/checkpoints/last.ckpt", f"go on with python train.py resume={tmp_path}"
    assert found == f"not enough memory at {line.format(said=SAID, saved=saved, unsaved=UNSAVED, go_on=go_on)}"


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", ["none", "light"])
def test_without_callbacks_that_save(callbacks: str, tmp_path: Path) -> None:
    line = error_of(run(*HUNGRY, f"callbacks={callbacks}", "module.limit=9", run_dir(tmp_path)))
    assert line.endswith(f"go on with half the micro-batch: python train.py resume={tmp_path} max_micro_batch_size=10")
    assert run(f"resume={tmp_path}", "max_micro_batch_size=5").status == 0


@pytest.mark.slow
def test_the_other_runs_of_a_sweep_go_on(tmp_path: Path) -> None:
    outcome = run("-m", *HUNGRY, "module.limit=9,99", "max_micro_batch_size=10,5", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 2, outcome
    lines = [line for line in outcome.lines if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    assert f"python train.py resume={tmp_path}/0 max_micro_batch_size=5" in lines[0]
    assert "(run: module.limit=9 max_micro_batch_size=10)" in lines[0]
    assert [results_of(tmp_path / str(number))["status"] for number in range(4)] == ["failed", *["completed"] * 3]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_in_one_of_two_processes(rank: int, tmp_path: Path) -> None:
    """All end in seconds, and the first process says how to go on, whichever ran out of memory."""
    two = (*HUNGRY, "trainer=ddp_cpu", "trainer.devices=2")
    smaller, cut = tmp_path / "smaller", tmp_path / "cut"
    assert process(*two, "max_micro_batch_size=5", run_dir(smaller)).returncode == 0
    found = process(*two, "max_micro_batch_size=10", "module.limit=9", "module.after=7", f"module.rank={rank}", run_dir(cut))
    assert found.returncode == FAILED, found.stderr
    assert "Traceback" not in found.stderr
    lines = [line.removeprefix("error: ") for line in found.stderr.splitlines() if line.startswith("error: ")]
    what = f"not enough memory at update 7, in a micro-batch of 10 examples ({SAID})"
    command = f"python train.py resume={cut} max_micro_batch_size=5"
    process_1 = "process 1: " if rank else ""
    assert f"{process_1}{what}; saved {cut}/checkpoints/last.ckpt; go on with half the micro-batch: {command}" in lines
    assert len(lines) == 1 + rank, found.stderr
    assert results_of(cut)["status"] == "failed"
    assert process(*shlex.split(command)[2:]).returncode == 0
    assert_same_to_rounding(cut, smaller, losses_from=7)  # before, the first process could only write its own

"""train.py and signals: what is saved, what is said, and that the command which is printed leads to the run that never stopped."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from noisescale.app.launchers.world import outer_world
from noisescale.app.resume import resume_command
from noisescale.files import read_rows
from noisescale.signals import SIGNALS
from tests.helpers.front_door import QUICK, Outcome, checkpoint_of, process, results_of, run, run_dir
from tests.helpers.processes import PATIENCE, started, wait_until
from tests.helpers.signalled import ENDLESS, what_matters

SEVERAL = (*QUICK, "epochs=3", "logger=csv-only")
"""17 updates, 6, 6 and 5 in an epoch."""


pytestmark = pytest.mark.usefixtures("default_handlers")


def sends(number: int, at: int) -> list[str]:
    target = "+callbacks.stop._target_=tests.helpers.callbacks.RaiseSignal"
    return [target, f"+callbacks.stop.number={int(number)}", f"+callbacks.stop.at={at}"]


def command_of(outcome: Outcome) -> list[str]:
    """The words of the command that the last line shows, without the callback that sends the signal."""
    python, script, *words = shlex.split(outcome.lines[-1])
    assert (python, script) == ("python", "train.py")
    return [word for word in words if not word.startswith("+callbacks.stop")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run(*SEVERAL, f"hydra.run.dir={folder}").status == 0
    return folder


@pytest.mark.cases(1)
@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, 4), pytest.param(signal.SIGTERM, 8, marks=pytest.mark.slow)])
def test_an_interrupted_run_is_saved_and_the_command_that_it_prints_resumes_it(
    number: signal.Signals, at: int, tmp_path: Path, whole: Path
) -> None:
    """In the first epoch, too, where no checkpoint has been saved before; in a folder whose name needs quotes."""
    folder = tmp_path / "it's my run"
    outcome = run(*SEVERAL, *sends(number, at), run_dir(folder))
    assert outcome.status == 128 + number
    assert outcome.lines[-2].startswith(f"error: interrupted by {number.name} at update {at}; saved {folder}/checkpoints/last.ckpt")
    assert "Traceback" not in outcome.err
    results = results_of(folder)
    assert (results["status"], results["reason"]) == ("interrupted", f"{number.name} at update {at}")
    assert "test/acc" not in results
    assert results["updates"] == len(read_rows(folder / "steps.csv")) == checkpoint_of(folder)["global_step"] == at
    resumed = run(*command_of(outcome))
    assert resumed.status == 0, resumed.err
    assert what_matters(folder) == what_matters(whole)


@pytest.mark.slow
def test_a_run_without_checkpoints_is_saved_as_well(tmp_path: Path) -> None:
    outcome = run(*SEVERAL, "callbacks=none", *sends(signal.SIGHUP, 4), f"hydra.run.dir={tmp_path}")
    assert outcome.status == 129
    assert checkpoint_of(tmp_path)["global_step"] == 4
    assert run(*command_of(outcome)).status == 0
    assert results_of(tmp_path)["updates"] == 17


def test_before_the_first_update_there_is_nothing_to_resume(tmp_path: Path) -> None:
    early = "+callbacks.stop._target_=tests.helpers.callbacks.SignalAtTheStart"
    outcome = run(*SEVERAL, early, f"hydra.run.dir={tmp_path}")
    assert (outcome.status, outcome.lines[-1]) == (143, "error: interrupted by SIGTERM at update 0; there is no checkpoint")


def test_a_test_that_is_interrupted_leaves_the_checkpoint_of_the_end(tmp_path: Path) -> None:
    outcome = run(*SEVERAL, "+callbacks.stop._target_=tests.helpers.callbacks.SignalInTheTest", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 143
    assert outcome.lines[-2].startswith("error: interrupted by SIGTERM during the test; the last checkpoint is")
    assert (results_of(tmp_path)["status"], results_of(tmp_path)["reason"]) == ("interrupted", "SIGTERM during the test")
    assert checkpoint_of(tmp_path)["global_step"] == 17


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_sweep_ends_and_says_how_to_resume_what_ran(number: signal.Signals, tmp_path: Path) -> None:
    outcome = run("-m", *SEVERAL, "seed=0,1", *sends(number, 2), f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 128 + number
    assert results_of(tmp_path / "0")["status"] == "interrupted"
    assert checkpoint_of(tmp_path / "0")["global_step"] == 2
    assert not (tmp_path / "1").exists()
    words = command_of(outcome)
    assert f"resume={tmp_path / '0'}" in words
    assert "-m" not in words
    assert "interrupted" in outcome.out


def test_the_command_that_resumes_is_that_with_which_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a, b"
    monkeypatch.setattr("sys.argv", ["my/train.py", "-m", "optimizer.lr=0.1"])
    expected = ["python", "my/train.py", f"resume={folder}"]
    assert shlex.split(resume_command(folder)) == expected
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    started_by = ["torchrun", "--nnodes", "2", "--nproc-per-node", "4"]
    assert shlex.split(resume_command(folder)) == [*started_by, *expected[1:]]
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert resume_command(folder) == f"run(resume={str(folder)!r})"


def test_what_torchrun_and_srun_have_started() -> None:
    torchrun = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    srun = {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    found = [outer_world(torchrun), outer_world(srun)]
    assert [(world.launcher, world.rank, world.size) for world in found if world] == [("torchrun", 3, 4), ("srun", 1, 2)]
    # one process; a batch script of SLURM without srun; a rank that rank 0 of a run has started in such a job
    alone = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4"}
    for environment in ({**torchrun, "WORLD_SIZE": "1"}, alone, {**srun, "NOISESCALE_RANK_0": "12"}, {"LOCAL_RANK": "0"}):
        assert outer_world(environment) is None


def test_several_machines_need_another_program_that_starts_the_processes(tmp_path: Path) -> None:
    outcome = run(*QUICK, "trainer=ddp_cpu", "trainer.num_nodes=2", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 2
    assert outcome.lines[-1].startswith("error: trainer.num_nodes=2: a run starts processes on its own machine only; on each machine: ")
    assert "torchrun --nnodes 2 --nproc-per-node 2" in outcome.lines[-1]


# -- processes -----------------------------------------------------------------------------------------------------------------
RANKS = {1: (), 2: ("trainer=ddp_cpu",)}


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended; it may be left as a zombie if its parent has ended before it and nobody asks for its status."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30.0
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.1)


def signalled(number: int, ranks: int, to: int, folder: Path, *words: str) -> tuple[int, str, float]:
    """Send a signal to a process of an endless run, inside its second epoch or later: (exit status, stderr, seconds to the exit)."""
    with started("train.py", *ENDLESS, *RANKS[ranks], *words, run_dir(folder)) as running:
        try:
            wait_until(lambda: read_rows(folder / "epochs.csv"), running)
            others = children_of(running.pid)[: ranks - 1]
            began = time.monotonic()
            signal_to = [running.pid, *others][to]
            subprocess.run(["kill", f"-{int(number)}", str(signal_to)], check=True)
            _, said = running.communicate(timeout=PATIENCE)
            seconds = time.monotonic() - began
        finally:
            running.kill()
    until_gone(others)
    return running.returncode, said, seconds


@pytest.mark.slow  # 12 x 60 s
@pytest.mark.parametrize(("number", "ranks", "to"), [(number, ranks, i % ranks) for ranks in RANKS for i, number in enumerate(SIGNALS)])
def test_a_signal_to_any_process_saves_the_run_which_then_goes_on_as_if_nothing_had_been(
    number: signal.Signals, ranks: int, to: int, tmp_path: Path
) -> None:
    """Prints a row of the table: signal, processes, seconds to the exit, update, equal."""
    status, said, seconds = signalled(number, ranks, to, tmp_path / "run")
    assert status == 128 + number, said
    assert "Traceback" not in said
    *_, line, command = said.splitlines()
    at = checkpoint_of(tmp_path / "run")["global_step"]
    assert f"interrupted by {number.name} at update {at}; saved" in line
    assert results_of(tmp_path / "run")["updates"] == at
    _, _, *words = shlex.split(command)
    until = f"trainer.max_steps={at + 30}"
    assert process(*words, until).returncode == 0
    assert process(*ENDLESS, *RANKS[ranks], until, f"hydra.run.dir={tmp_path}/whole").returncode == 0
    assert what_matters(tmp_path / "run") == what_matters(tmp_path / "whole")
    print(f"\n| {number.name} | {ranks} | rank {to} | {seconds:.2f} | {at} | bit-equal |")


@pytest.mark.slow
@pytest.mark.parametrize("to", [0, 1])
def test_a_process_that_is_killed_ends_the_others_with_one_line(to: int, tmp_path: Path) -> None:
    status, said, seconds = signalled(signal.SIGKILL, 2, to, tmp_path)
    assert seconds < 30.0
    assert "Traceback" not in said
    if to == 0:
        assert status == -signal.SIGKILL
        assert said.splitlines()[-1] == "error: process 0 of this run has ended, so this one ends, too"
    else:
        assert status == 1
        assert said.splitlines()[-2].startswith("error: interrupted by process 1 of 2, which was ended by SIGKILL at update ")
        assert results_of(tmp_path)["status"] == "interrupted"
    print(f"\n| SIGKILL | 2 | rank {to} | {seconds:.2f} |")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run_within_the_time_limit(tmp_path: Path) -> None:
    status, said, seconds = signalled(signal.SIGSTOP, 2, 1, tmp_path, "rank_timeout=60")
    assert status == 1
    assert 55.0 < seconds < 100.0
    assert "interrupted by a process that did not answer within rank_timeout at update" in said.splitlines()[-2]
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others(tmp_path: Path) -> None:
    bug = "+callbacks.bug._target_=tests.helpers.callbacks.FailsOnRank1"
    done = process(*QUICK, "trainer=ddp_cpu", "epochs=3", bug, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.count("ValueError: a bug on rank 1") == 1
    assert done.stderr.splitlines()[-1].startswith("error: interrupted by process 1 of 2, which has failed (status 1; ") or (
        "to resume" in done.stderr
    )


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_saves_the_run_even_if_it_ends_the_workers(tmp_path: Path) -> None:
    """As SLURM sends it; the workers of a DataLoader end at SIGTERM at once."""
    with started("train.py", *ENDLESS, "data.num_workers=2", run_dir(tmp_path)) as running:
        try:
            wait_until(lambda: read_rows(tmp_path / "epochs.csv"), running)
            os.killpg(running.pid, signal.SIGTERM)
            _, said = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
    assert running.returncode == 143, said
    at = checkpoint_of(tmp_path)["global_step"]
    assert f"error: interrupted by SIGTERM at update {at}; saved" in said
    assert "Traceback" not in said
    until = f"trainer.max_steps={at + 30}"
    assert process(*shlex.split(said.splitlines()[-1])[2:], until).returncode == 0
    assert process(*ENDLESS, "data.num_workers=2", until, f"hydra.run.dir={tmp_path}/whole").returncode == 0
    assert what_matters(tmp_path) == what_matters(tmp_path / "whole")

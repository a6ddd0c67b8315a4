"""Runs that a cluster carries out: the jobs of submitit, pre-emption, and jobs that are started again."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from noisescale.app.requeued import cluster_job
from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, process, results_of, run
from tests.helpers.processes import PATIENCE, started, wait_until
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

LEAN = (*QUICK, "logger=csv-only", "epochs=3")
ENDS = ("+callbacks.end._target_=tests.helpers.callbacks.EndsOnce", "+callbacks.end.epoch=2")


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7"}, "slurm-7"),
        ({"SUBMITIT_LOCAL_JOB_ID": "9"}, "local-9"),
    ],
)
def test_the_job_of_a_cluster(environment: dict[str, str], job: str) -> None:
    assert cluster_job(environment) == job


def test_a_job_that_slurm_starts_again_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*LEAN, *ENDS, f"+callbacks.end.mark={tmp_path}/mark", f"hydra.run.dir={tmp_path}/run")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert run(*words).status == 130
    begun = len(read_rows(tmp_path / "run" / "steps.csv"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    outcome = run(*words)
    assert outcome.status == 0, outcome.err
    assert "note: started again: it goes on from " in outcome.err
    assert results_of(tmp_path / "run")["status"] == "completed"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert run(*LEAN, f"hydra.run.dir={tmp_path}/alone").status == 0
    rows = (tmp_path / "run" / "steps.csv").read_text()
    assert rows == (tmp_path / "alone" / "steps.csv").read_text()
    assert len(rows.splitlines()) - 1 > begun


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment", [{"SLURM_JOB_ID": "12"}, {"SLURM_JOB_ID": "13", "SLURM_RESTART_COUNT": "1"}], ids=["in one allocation", "another job"]
)
def test_another_run_in_the_same_folder_starts_from_scratch(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*LEAN, *ENDS, f"+callbacks.end.mark={tmp_path}/mark", f"hydra.run.dir={tmp_path}/run")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert run(*words).status == 130
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = run(*words)
    assert outcome.status == 0, outcome.err
    assert "started again" not in outcome.err


# -- submitit ------------------------------------------------------------------------------------------------------------------


def trainings(sweep: Path) -> list[int]:
    """The processes of the jobs of submitit's local executor: the children of the processes that their folders are named after."""
    controllers = [path.name for path in (sweep / ".submitit").glob("[0-9]*")]
    return [int(pid) for name in controllers for pid in Path(f"/proc/{name}/task/{name}/children").read_text().split()]


@pytest.mark.slow
def test_a_job_of_submitit_that_is_pre_empted_is_started_again_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="of the extra `submitit`")
    words = ("data.subset_size=400", "epochs=30", "threads=1", "seed=3")
    sweep = tmp_path / "sweep"
    with started("train.py", "-m", "hydra/launcher=submitit_local", *words, f"hydra.sweep.dir={sweep}") as running:
        try:
            wait_until(lambda: len(read_rows(sweep / "0" / "epochs.csv")) > 2, running)
            (pid,) = trainings(sweep)
            os.kill(pid, signal.SIGUSR2)
            wait_until(lambda: trainings(sweep) not in ([], [pid]), running)
            _, said = running.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, said
    log = "".join(file.read_text() for file in (sweep / ".submitit").glob("*/*_log.*"))
    assert "Caught signal SIGUSR2" in log
    assert "Requeued job" in log
    assert "note: started again: it goes on from " in log
    assert results_of(sweep / "0")["status"] == "completed"
    alone = process(*words, f"hydra.run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    assert (sweep / "0" / "steps.csv").read_text() == (tmp_path / "alone" / "steps.csv").read_text()


@pytest.mark.slow
def test_a_job_of_submitit_that_is_killed_is_said_and_finished_by_the_same_command(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="of the extra `submitit`")
    kills = [f"+callbacks.end.{word}" for word in (f"mark={tmp_path}/mark", "kill=true", "seed=0")]
    words = ("-m", "hydra/launcher=submitit_local", *LEAN, ENDS[0], *kills, "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep")
    first = process(*words)
    assert first.returncode == 1
    assert "Traceback" not in first.stderr
    assert "error: a job of submitit has failed; the others go on" in first.stderr
    second = process(*words)
    assert second.returncode == 0, second.stderr
    assert [results_of(tmp_path / "sweep" / number)["status"] for number in "01"] == ["completed", "completed"]


@pytest.mark.slow
def test_the_batch_file_for_slurm_has_what_was_asked_for(tmp_path: Path) -> None:
    """A program `sbatch` of ours stands for SLURM's: it keeps the file that it gets, and gives a job number."""
    pytest.importorskip("submitit", reason="of the extra `submitit`")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in {"sbatch": f'cp "$1" {tmp_path}/job.sh; echo "Submitted batch job 4711"', "srun": "true", "sacct": "exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    asked = ("partition=gpu", "timeout_min=90", "gpus_per_node=1", "cpus_per_task=4", "mem_gb=16", "array_parallelism=2")
    words = ("-m", "hydra/launcher=submitit_slurm", *LEAN, "seed=0,1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    with started("train.py", *words, *(f"hydra.launcher.{word}" for word in asked), environment={"PATH": path}) as running:
        try:
            wait_until((tmp_path / "job.sh").exists, running)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.communicate(timeout=PATIENCE)
    lines = (tmp_path / "job.sh").read_text().splitlines()
    options = {line.removeprefix("#SBATCH --").partition("=")[0]: line.partition("=")[2] for line in lines if line.startswith("#SBATCH")}
    assert options["array"] == "0-2%2"
    assert (options["partition"], options["time"], options["gpus-per-node"]) == ("gpu", "90", "1")
    assert (options["cpus-per-task"], options["mem"]) == ("4", "16GB")
    assert options["signal"] == "USR2@120"
    assert options["job-name"] == "train"
    assert "requeue" in options or "open-mode" in options
    assert any(line.startswith("srun ") and "submitit.core._submit" in line for line in lines)

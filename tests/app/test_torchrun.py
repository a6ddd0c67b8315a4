"""train.py under torchrun and srun, which start its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, checkpoint_of, process, results_of, run_dir
from tests.helpers.processes import PATIENCE, started, wait_until
from tests.helpers.signalled import ENDLESS, what_matters

pytestmark = pytest.mark.usefixtures("default_handlers")
DDP = (*QUICK, "trainer=ddp_cpu", "epochs=2", "logger=csv-only")


def torchrun(*words: str, cwd_words: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return started("-m", "torch.distributed.run", "--nproc-per-node", "2", *cwd_words, "train.py", *words, out=subprocess.PIPE)


@pytest.mark.slow
def test_torchrun_starts_the_processes_of_one_run_in_one_folder(tmp_path: Path) -> None:
    folder = f"hydra.run.dir='{tmp_path}/runs/${{now:%f}}'"  # another folder in each process, if each decided for itself
    with torchrun(*DDP, folder) as running:
        out, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, said
    (run_folder,) = (tmp_path / "runs").iterdir()
    assert process(*DDP, f"hydra.run.dir={tmp_path}/alone").returncode == 0
    assert what_matters(run_folder) == what_matters(tmp_path / "alone")
    assert out.count("test accuracy") == 1
    assert said.count("effective 32 = 16 micro x 1 accumulate x 2 devices") == 1


@pytest.mark.slow
def test_torchrun_passes_ctrl_c_on_to_processes_that_have_it_already(tmp_path: Path) -> None:
    with torchrun(*ENDLESS, "trainer=ddp_cpu", run_dir(tmp_path)) as running:
        wait_until(lambda: read_rows(tmp_path / "epochs.csv"), running)
        os.killpg(running.pid, signal.SIGINT)  # its process group, as a terminal does
        _, said = running.communicate(timeout=PATIENCE)
    at = checkpoint_of(tmp_path)["global_step"]
    assert f"error: interrupted by SIGINT at update {at}; saved" in said
    assert f"torchrun --nproc-per-node 2 train.py resume={tmp_path}" in said
    assert results_of(tmp_path)["status"] == "interrupted"


@pytest.mark.slow
def test_srun_starts_the_processes_of_one_run_in_one_folder(tmp_path: Path) -> None:
    """Two tasks with the variables that srun gives them."""
    job = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_STEP_NODELIST": "127.0.0.1"}
    job |= {"SLURM_JOB_ID": str(time.time_ns() // 1000 % 100000), "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train"}
    folder = f"hydra.run.dir='{tmp_path}/runs/${{now:%f}}'"
    tasks = [
        started("train.py", *DDP, folder, environment={**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}, out=subprocess.PIPE)
        for rank in "01"
    ]
    ends = [task.communicate(timeout=PATIENCE) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], ends
    (run_folder,) = (tmp_path / "runs").iterdir()
    assert results_of(run_folder)["updates"] == 12
    assert "test accuracy" in ends[0][0]
    assert not ends[1][0]


@pytest.mark.slow
def test_one_task_of_slurm_starts_its_own_processes(tmp_path: Path) -> None:
    """As in a batch script without srun: SLURM_NTASKS is the size of the allocation."""
    job = {
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "3",
        "SLURM_JOB_NAME": "train",
    }
    done = process(*DDP, f"hydra.run.dir={tmp_path}", **{f"SLURM_{name}": value for name, value in job.items()})
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path)["updates"] == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (QUICK, "error: trainer.devices=1: torchrun has started 2 processes, and the config has 1 x 1 (trainer.num_nodes); choose"),
        (("-m", *DDP, "seed=0,1"), "error: torchrun=2: starts the processes of one run, not those of a sweep; start each run"),
    ],
)
def test_what_torchrun_cannot_start_is_refused_once(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    with torchrun(*words, f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}") as running:
        began = time.monotonic()
        _, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1
    assert said.count(line) == (1 if words[0] != "-m" else 2)  # a sweep is refused before the processes know of each other
    assert time.monotonic() - began < 120.0


@pytest.mark.slow
def test_the_processes_of_torchrun_end_where_there_is_nothing_to_train() -> None:
    """The store of torchrun outlives process 0, which the others would wait for."""
    with torchrun("--cfg", "job", "trainer=ddp_cpu") as running:
        out, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    assert out.count("seed: 0") == 1

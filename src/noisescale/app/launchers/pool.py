"""Carry out the runs of a sweep in a few processes, forked from this one after it has imported torch, so there is one import for all."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from noisescale.app.launchers.ranks import end_with
from noisescale.app.libraries import import_libraries
from noisescale.errors import ConfigError, check_count

__all__ = ["Sweep", "launch"]

PATIENCE = 5.0
"""Seconds that interrupted runs have to end on their own."""


@dataclass(frozen=True)
class Sweep:
    """What Hydra passes to a launcher."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig


_sweep: Sweep


def launch(sweep: Sweep, n_jobs: int, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Carry out all runs, `n_jobs` at a time, even if some of them fail; returns their results, in the order of the runs.

    A forked process has everything that was imported before, at no cost, and keeps the data that a run has read for its next run.

    Args:
        sweep: what Hydra passed to the launcher.
        n_jobs: number of processes, at least 1; each carries out one run after another.
        job_overrides: the overrides of each run.
        first: the number of the first run.

    Raises:
        ConfigError: `n_jobs` is out of its range, or the system is not Linux.
        RuntimeError: a process was killed.
    """
    check_count("hydra.launcher.n_jobs", n_jobs, unit="processes")
    if sys.platform != "linux":
        raise ConfigError("hydra/launcher", "pool", "copies processes, which only Linux does well", "use hydra/launcher=joblib")
    setup_globals()
    configure_log(sweep.config.hydra.hydra_logging, sweep.config.hydra.verbose)
    Path(str(sweep.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    import_libraries()  # it starts no threads and does not touch a GPU: neither would survive a fork
    global _sweep
    _sweep = sweep  # the forked processes inherit it, because a task function cannot be sent to them
    waiting = deque(enumerate(job_overrides, first))
    running: dict[Future[JobReturn], int] = {}
    done: dict[int, JobReturn] = {}
    with ProcessPoolExecutor(min(n_jobs, len(waiting)), get_context("fork"), end_with, (os.getpid(),)) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < n_jobs:  # not more, because a run that was submitted cannot be taken back
                    number, overrides = waiting.popleft()
                    running[pool.submit(_run, number, list(overrides))] = number
                for run in wait(running, return_when=FIRST_COMPLETED).done:
                    done[running.pop(run)] = run.result()
        except BrokenProcessPool:
            message = "a process of the sweep was killed, perhaps because memory ran out; the files of runs that had ended are kept"
            raise RuntimeError(message) from None
        except BaseException:
            # Ctrl-C in a terminal interrupts all processes, which now write their results. A signal sent to this process alone does not
            # reach the others, so they get one if they have not ended in time.
            if wait(running, timeout=PATIENCE).not_done:
                for process in active_children():
                    os.kill(process.pid or 0, signal.SIGINT)
            raise
    return [done[number] for number in sorted(done)]


def _run(number: int, overrides: list[str]) -> JobReturn:
    """Carry out one run in the same way as Hydra's own launcher."""
    setup_globals()
    config: Any = _sweep.hydra_context.config_loader.load_sweep_config(_sweep.config, overrides)
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    done = run_job(
        hydra_context=_sweep.hydra_context,
        task_function=_sweep.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if done.status == JobStatus.FAILED and isinstance(done._return_value, Exception):
        done._return_value = _picklable(done._return_value)
    return done


def _picklable(error: Exception) -> Exception:
    """`error` with its traceback as a note, because pickling drops the traceback; a RuntimeError if `error` itself cannot be pickled."""
    trace = "".join(traceback.format_exception(error))
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            error.add_note(trace)
            return error
    except Exception:  # a user's class may raise anything here
        pass
    return RuntimeError(trace)

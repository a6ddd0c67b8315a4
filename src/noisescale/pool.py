"""The runs of a sweep in a few processes, each a copy of this one after it has imported torch: one import for all."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, open_dict

from noisescale.errors import ConfigError, check_count

__all__ = ["Sweep", "launch"]


@dataclass(frozen=True)
class Sweep:
    """What Hydra gives a launcher."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig


_sweep: Sweep


def launch(sweep: Sweep, n_jobs: int, prepare: str, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Carry out all runs, `n_jobs` at a time, whatever becomes of one; what they returned, in their order.

    A process that is forked has all that was imported before, at no cost, and keeps what a run has read for its next one.

    Args:
        sweep: of the runs.
        n_jobs: processes, at least 1; each carries out one run after another.
        prepare: dotted name of a function without arguments, called before the fork: it may import, but must not start threads or
            touch a GPU.
        job_overrides: of each run.
        first: the number of the first.

    Raises:
        ConfigError: `n_jobs` out of its range, or another system than Linux.
    """
    check_count("hydra.launcher.n_jobs", n_jobs, unit="processes")
    if sys.platform != "linux":
        raise ConfigError("hydra/launcher", "pool", "copies processes, which only Linux does well", "use hydra/launcher=joblib")
    setup_globals()
    configure_log(sweep.config.hydra.hydra_logging, sweep.config.hydra.verbose)
    Path(str(sweep.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    get_method(prepare)()
    global _sweep
    _sweep = sweep  # for the copies: a task function cannot be sent to them
    with ProcessPoolExecutor(min(n_jobs, len(job_overrides)), get_context("fork")) as pool:
        runs = [pool.submit(_run, number, list(overrides)) for number, overrides in enumerate(job_overrides, first)]
        try:
            return [run.result() for run in runs]
        except BrokenProcessPool:
            raise RuntimeError(
                "a process of the sweep was killed, for want of memory perhaps; runs that had ended keep their files"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(number: int, overrides: list[str]) -> JobReturn:
    """One run, as Hydra's own launcher has it."""
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
        # A trace does not travel between processes, its text does.
        done._return_value.add_note("".join(traceback.format_exception(done._return_value)))
    return done

"""Carry out the runs of a sweep in a few processes, forked from this one after it has imported torch, so there is one import for all."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from noisescale.app.launchers.ranks import end_with
from noisescale.app.libraries import import_libraries
from noisescale.app.messages import say
from noisescale.app.sweeps import RunDied, in_short, leave_ending
from noisescale.errors import ConfigError, check_count
from noisescale.signals import Interrupted

__all__ = ["Sweep", "launch"]

PATIENCE = 60.0
"""Seconds that interrupted runs have to write their files; after that, or at a second interruption, their processes are killed."""

LOOK = 1.0
"""Seconds between two looks at whether all processes are alive. The end of a process usually shows at once, as the end of its pipe, but
not while a process that it has started itself holds that pipe open."""


@dataclass(frozen=True)
class Sweep:
    """What Hydra passes to a launcher."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig


_sweep: Sweep


def launch(
    sweep: Sweep, n_jobs: int, job_overrides: Sequence[Sequence[str]], first: int, ended: Callable[[], None] | None = None
) -> list[JobReturn]:
    """Carry out all runs, `n_jobs` at a time, even if some of them fail; returns their results, in the order of the runs.

    A forked process has everything that was imported before, at no cost, and keeps the data that a run has read for its next run.

    Args:
        sweep: what Hydra passed to the launcher.
        n_jobs: number of processes, at least 1; each carries out one run after another.
        job_overrides: the overrides of each run.
        first: the number of the first run.
        ended: is called after the end of each run.

    A run whose process is killed, as the system does when memory runs out, has failed and is not tried again: it would probably be killed
    again. Another process takes its place and carries out the other runs.

    Raises:
        ConfigError: `n_jobs` is out of its range, or the system is not Linux.
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
    waiting = deque(_Job(number, tuple(overrides)) for number, overrides in enumerate(job_overrides, first))
    done: dict[int, JobReturn] = {}
    with _Workers() as workers:
        while waiting or workers.busy:
            while waiting and len(workers.busy) < n_jobs:
                workers.give(waiting.popleft())
            for job, result in workers.results():
                done[job.number] = result
                if ended is not None:
                    ended()
    return [done[number] for number in sorted(done)]


@dataclass(frozen=True)
class _Job:
    """One run: its number and its overrides."""

    number: int
    overrides: tuple[str, ...]


class _Worker:
    """A forked process that carries out one run after another, which it gets through a pipe."""

    def __init__(self) -> None:
        context = get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()))
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def result(self) -> JobReturn | BaseException | None:
        """The result of its run, or an interruption; None if it is not there yet, EOFError if its process has ended without one."""
        alive = self.process.is_alive()  # asked first: what a process has sent is there if it has ended
        try:
            if self.pipe.poll():
                found: JobReturn | BaseException = self.pipe.recv()
                return found
        except (EOFError, OSError):
            return EOFError()
        return None if alive else EOFError()

    def end(self, patience: float = 0.0) -> None:
        """Wait so many seconds for its end, and kill it if it still runs."""
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


class _Workers:
    """The processes of a pool. At the end of the `with` block none of them is left; an interruption is passed on to them first."""

    def __init__(self) -> None:
        self.busy: dict[_Worker, _Job] = {}
        self._idle: list[_Worker] = []

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # Ctrl-C in a terminal reaches this process alone, because the others have process groups of their own.
        number = getattr(error, "number", None) or signal.SIGINT
        for worker in self.busy:
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid or 0, number)
        for worker in self._idle:
            with suppress(OSError):
                worker.pipe.send(None)
        deadline = time.monotonic() + PATIENCE
        try:
            for worker in (*self._idle, *self.busy):
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:  # also at a second interruption
            for worker in (*self._idle, *self.busy):
                worker.end()

    def give(self, job: _Job) -> None:
        """Let an idle process carry out a run, or a new one."""
        worker = self._idle.pop() if self._idle else _Worker()
        self.busy[worker] = job
        with suppress(OSError):  # it has been killed since its last run, which `results` will notice
            worker.pipe.send(job)

    def results(self) -> Iterator[tuple[_Job, JobReturn]]:
        """Wait until some of the runs have ended.

        Raises:
            Interrupted: one of them was interrupted.
        """
        wait([worker.pipe for worker in self.busy], timeout=LOOK)
        for worker, job in list(self.busy.items()):
            result = worker.result()
            if result is None:
                continue
            del self.busy[worker]
            if isinstance(result, EOFError):
                worker.end(LOOK)
                yield job, _dead(job, worker.process.exitcode)
            elif isinstance(result, BaseException):
                worker.end(PATIENCE)
                raise result
            else:
                self._idle.append(worker)
                yield job, result


def _serve(pipe: Connection, parent: int) -> None:
    """Carry out the runs that come through the pipe, until None comes, or until a run is interrupted."""
    os.setpgid(0, 0)
    end_with(parent)
    with suppress(EOFError, KeyboardInterrupt, SystemExit):
        while (job := pipe.recv()) is not None:
            try:
                pipe.send(_run(job))
            except (KeyboardInterrupt, SystemExit) as stop:  # the run has written its files
                pipe.send(Interrupted(_signal_of(stop)))
                return


def _signal_of(stop: BaseException) -> int:
    status = getattr(stop, "status", None) or getattr(stop, "code", None)  # of a RunInterrupted, of a SystemExit
    return status - 128 if isinstance(status, int) and status > 128 else signal.SIGINT


def _run(job: _Job) -> JobReturn:
    """Carry out one run in the same way as Hydra's own launcher."""
    setup_globals()
    done = run_job(
        hydra_context=_sweep.hydra_context,
        task_function=_sweep.task_function,
        config=_config_of(job),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if done.status == JobStatus.FAILED and isinstance(done._return_value, Exception):
        done._return_value = _picklable(done._return_value)
    done.cfg = done.hydra_cfg = None  # nobody asks for them, and the process of the sweep would keep them
    return done


def _config_of(job: _Job) -> DictConfig:
    config: Any = _sweep.hydra_context.config_loader.load_sweep_config(_sweep.config, list(job.overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = job.number
    assert isinstance(config, DictConfig)
    return config


def _dead(job: _Job, code: int | None) -> JobReturn:
    """The result of a run whose process has ended in the middle of it; it is said at once, and noted in the folder of the run."""
    how = f"its process ended with exit status {code}"
    if code is not None and code < 0:
        how = f"its process was killed by {signal.Signals(-code).name}"
        how += ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
    words = filter_overrides(job.overrides)
    say(f"{how}; the other runs are carried out  (run: {in_short(words)})")
    with suppress(OmegaConfBaseException):  # a name that needs more than the config
        sweep = _config_of(job).hydra.sweep
        if (folder := Path(str(sweep.dir), str(sweep.subdir))).is_dir():
            leave_ending(folder, "failed", how, words)
    return JobReturn(overrides=list(job.overrides), status=JobStatus.FAILED, _return_value=RunDied(how))


def _picklable(error: Exception) -> Exception:
    """`error` with its traceback as a note, because pickling drops the traceback; a RuntimeError if `error` itself cannot be pickled."""
    trace = "".join(traceback.format_exception(error))
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            error.add_note(trace)
            return error
    except Exception:  # a user's class may raise anything here
        pass
    bug = RuntimeError(f"{type(error).__name__}: {error}")
    bug.add_note(trace)
    return bug

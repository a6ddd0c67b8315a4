"""Carry out the runs that a claim needs and that its folder does not hold yet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig

from noisescale.app.known_runs import KnownRuns, quoted
from noisescale.app.sweeps import noted_runs
from noisescale.progress import progress_bar
from noisescale.studies.runs import COMPLETE, Run, identity, runs_in

__all__ = ["LOG", "Runner", "found_runs"]

LOG = "runs.log"
"""What the runs print goes into this file, in their folder."""

LOOK = 1.0
"""Seconds between two looks at runs that another process carries out."""


@dataclass(frozen=True)
class Runner:
    """What carries out runs.

    Attributes:
        conf: the folder of config.yaml.
        train: carries out one run from its composed config.
        n_jobs: how many runs at once.
    """

    conf: Path
    train: TaskFunction
    n_jobs: int

    def carry_out(self, jobs: Sequence[tuple[str, ...]], folder: Path, title: str) -> None:
        """Carry out those of the runs that are not complete in `folder`; the same run twice is carried out once.

        Runs that another process carries out are waited for, and carried out here if that process ends without finishing them.

        Args:
            jobs: the overrides of each run.
            folder: where each run has a folder of its own.
            title: what the progress bar says.

        Raises:
            HydraException: a run cannot be composed.
            Interrupted: a signal came; the same call goes on from there.
        """
        wanted = {identity(words): list(words) for words in jobs}
        while missing := [words for key, words in wanted.items() if key not in _complete(folder)]:
            others = self._carry_out(missing, folder, title)
            if not others:
                return
            print(f"waiting for {len(others)} runs that another process carries out", file=sys.stderr)
            while any(run.state == "running" for run in runs_in(*others)):
                time.sleep(LOOK)

    def _carry_out(self, missing: Sequence[Sequence[str]], folder: Path, title: str) -> list[Path]:
        """Carry out these runs, except those that another process carries out, whose folders are returned."""
        folder.mkdir(parents=True, exist_ok=True)
        with noted_runs([]), _hydra(self.conf, folder) as (config, context), progress_bar(title) as advance:
            decisions = KnownRuns(config, context.config_loader).decide(missing)
            words = [each.words for each in decisions if each.words is not None]
            ended = 0

            def one_more() -> None:
                nonlocal ended
                ended += 1
                if advance is not None:
                    advance(ended / len(words))

            if words:
                launch = _launch_in_pool if sys.platform == "linux" else _launch_here
                launch(config, context, _quiet(self.train, folder / LOG), words, min(self.n_jobs, len(words)), one_more)
        return [each.folder for each in decisions if each.what == "running" and each.folder is not None]


def found_runs(folder: Path) -> Mapping[tuple[str, ...], Run]:
    """identity -> run of every run in a folder; of two with the same identity the complete one."""
    runs = sorted(runs_in(folder), key=lambda run: run.state in COMPLETE)
    return {identity(run.overrides): run for run in runs if run.overrides is not None}


def _complete(folder: Path) -> set[tuple[str, ...]]:
    return {key for key, run in found_runs(folder).items() if run.state in COMPLETE}


def _launch_in_pool(
    config: DictConfig, context: HydraContext, train: TaskFunction, words: Sequence[Sequence[str]], n_jobs: int, ended: Callable[[], None]
) -> None:
    from noisescale.app.launchers.pool import Sweep, launch

    launch(Sweep(context, train, config), n_jobs, words, 0, ended)


def _launch_here(
    config: DictConfig, context: HydraContext, train: TaskFunction, words: Sequence[Sequence[str]], n_jobs: int, ended: Callable[[], None]
) -> None:
    """One run after another in this process, with Hydra's own launcher, where there is no pool."""
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=train, config=config)
    for number, each in enumerate(words):
        launcher.launch([each], number)
        ended()


def _quiet(train: TaskFunction, log: Path) -> TaskFunction:
    """The same function, which appends to a file what it prints, unless it is called in this process."""
    here = os.getpid()

    def carry_out(cfg: DictConfig) -> object:
        if os.getpid() != here:
            with log.open("a") as file:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                    os.dup2(file.fileno(), stream.fileno())
        return train(cfg)

    return carry_out


@contextmanager
def _hydra(conf: Path, folder: Path) -> Iterator[tuple[DictConfig, HydraContext]]:
    """The config and the context of a sweep in `folder`, as `python train.py -m` has them, without a command line."""
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("train", create_config_search_path(str(conf)))
    words = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={quoted(folder.resolve())}"]
    config = hydra.compose_config("config", words, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    try:
        yield config, HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    finally:
        GlobalHydra.instance().clear()

"""Run train.py and plan.py as a user does, most of the time in this process, and read the files that they leave."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import branches as branches_script
import plan as plan_script
import range_test as range_test_script
import train as train_script
from noisescale.app.composed import num_examples, read_config
from noisescale.app.trainer import quiet_lightning
from noisescale.files import read_rows
from noisescale.plans import Plan
from tests.helpers.processes import python

QUICK = ("data.subset_size=200", "epochs=1", "threads=1")
"""180 training examples, 6 updates of 32."""


@dataclass(frozen=True)
class Outcome:
    """What the user sees of a command: exit status, stdout, stderr."""

    status: int | str | None
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()


@contextmanager
def fresh_process() -> Iterator[None]:
    """Restore the environment, the path, the loggers and Hydra afterwards, because the programs own their process and do not clean up."""
    environment, arguments, path = dict(os.environ), sys.argv, sys.path[:]
    loggers = [logging.getLogger(name) for name in ("", "hydra", "lightning_fabric", "pytorch_lightning.utilities.rank_zero")]
    before = [(logger, logger.handlers[:], logger.filters[:], logger.level, logger.propagate) for logger in loggers]
    for name in ("HYDRA_FULL_ERROR", "NOISESCALE_FULL_ERROR"):
        os.environ.pop(name, None)
    quiet_lightning.cache_clear()
    try:
        yield
    finally:
        for logger, handlers, filters, level, propagate in before:
            logger.handlers, logger.filters, logger.propagate = handlers, filters, propagate
            logger.setLevel(level)
        GlobalHydra.instance().clear()
        sys.argv, sys.path[:] = arguments, path
        os.environ.clear()
        os.environ.update(environment)


def command(script: ModuleType, *arguments: str, **environment: str) -> NoReturn:
    """Run `ENVIRONMENT python SCRIPT ARGUMENTS` in this process, because a process of its own would spend its time importing torch."""
    with fresh_process():
        os.environ.update(environment)
        sys.argv = [f"{script.__name__}.py", *arguments]
        script.main()
    raise AssertionError(f"{script.__name__}.py did not exit")


def outcome_of(script: ModuleType, *arguments: str) -> Outcome:
    """Run a command until it exits; returns its exit status and output."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as caught:
        command(script, *arguments)
    return Outcome(caught.value.code, out.getvalue(), err.getvalue())


def run(*arguments: str) -> Outcome:
    """Run `python train.py ARGUMENTS` in this process until it exits."""
    return outcome_of(train_script, *arguments)


def plan(*arguments: str) -> Outcome:
    """Run `python plan.py ARGUMENTS` in this process until it exits."""
    return outcome_of(plan_script, *arguments)


def branches(*arguments: str) -> Outcome:
    """Run `python branches.py ARGUMENTS` in this process until it exits."""
    return outcome_of(branches_script, *arguments)


def range_test(*arguments: str) -> Outcome:
    """Run `python range_test.py ARGUMENTS` in this process until it exits."""
    return outcome_of(range_test_script, *arguments)


def planned(cfg: DictConfig) -> Plan:
    """What train.py checks and builds of a config before it reads data; of an image folder the files are counted."""
    return read_config(cfg).plan(num_examples(cfg))


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python train.py ARGUMENTS` in a process of its own."""
    return python("train.py", *arguments, environment=environment)


def run_dir(folder: Path) -> str:
    """The override that sets the folder of a run, quoted for Hydra."""
    escaped = str(folder).replace("'", "\\'")
    return f"hydra.run.dir='{escaped}'"


def results_of(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / "results.json").read_text()))


def losses_of(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in read_rows(folder / "steps.csv")]


def checkpoint_of(folder: Path, name: str = "last") -> dict[str, Any]:
    return cast(dict[str, Any], torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True))

"""Report the results of a run at its end: results.json, TensorBoard's hparams, a short table."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from noisescale import __version__
from noisescale.app.config import as_plain, in_sweep, options, output_dir
from noisescale.app.outcome import Outcome
from noisescale.files import write_atomically

__all__ = ["leave_results", "versions"]


def leave_results(cfg: DictConfig, outcome: Outcome, trainer: pl.Trainer, num_examples: int) -> None:
    """Write results.json, log the final metrics with the hyperparameters, and print the short table.

    Args:
        cfg: the composed config.
        outcome: how the run ended.
        trainer: the trainer of the run.
        num_examples: N, the number of examples of one pass.
    """
    results = {
        **outcome.metrics,
        "updates": outcome.updates,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 3),
        "examples_per_second": round(outcome.examples_per_second, 1),
        "num_examples": num_examples,
        "status": outcome.status,
        "message": outcome.message,
        "seed": cfg.seed,
        **versions(),
    }
    # JSON has neither nan nor inf, so they become null.
    plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in results.items()}
    write_atomically(output_dir() / "results.json", json.dumps(plain, indent=2) + "\n")
    _log_hyperparameters(trainer, _parameters(cfg), outcome.metrics)
    _print_table(results)


def _log_hyperparameters(trainer: pl.Trainer, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Show the choices of the run on TensorBoard's hparams page, with its final metrics as hp/..."""
    finals = {f"hp/{name}": value for name, value in metrics.items() if math.isfinite(value)}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(parameters), finals)
            logger.finalize("success")


def _parameters(cfg: DictConfig) -> dict[str, Any]:
    """The choices that distinguish one run from another."""
    left_out = ("callbacks", "logger", "trainer", "output_dir", "full_error", "ckpt_path")
    params = {key: value for key, value in as_plain(cfg).items() if key not in left_out}
    return params | {f"{group}/option": name for group, name in options().items() if group in params}


def _print_table(results: Mapping[str, Any]) -> None:
    run = os.path.relpath(output_dir())
    if in_sweep():
        tested = _tested(results)
        words = ", ".join(f"{name} {value}" for name, value in tested) or "no test"
        # Flushed, because otherwise the output of a process of the pool would appear only when that process ends.
        print(f"{run}: {results['status']}, {words}, {results['updates']} updates", flush=True)
    else:
        table = Table(show_header=False)
        for name, value in _tested(results):
            table.add_row(name, value)
        table.add_row("updates", str(results["updates"]))
        table.add_row("seconds", f"{results['seconds']:.1f}")
        table.add_row("examples/s", f"{results['examples_per_second']:.0f}")
        table.add_row("run", run)
        Console(soft_wrap=True).print(table)
        print(f"{os.path.relpath(Path(sys.prefix) / 'bin' / 'tensorboard')} --logdir {run}")
    if results["message"]:
        print(results["message"], file=sys.stderr)


def _tested(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the test metrics that are shown: that of the task, or else all that a module of the user's own has logged."""
    names = {"test/acc": "test accuracy", "test/rmse": "test RMSE"}
    found = [name for name in names if name in results] or [name for name in results if name.startswith("test")]
    return [(names.get(name, name), f"{results[name]:.4f}") for name in found if isinstance(results[name], float)]


def versions() -> dict[str, Any]:
    """The versions of the software that ran, and the commit; the commit is None outside a git checkout."""
    commit = None
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
        commit = found.stdout.strip()
    versions = {
        "noisescale": __version__,
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    return {"versions": versions, "commit": commit}

"""What a run says at its end: results.json, TensorBoard's hparams, a short table."""

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
from typing import TYPE_CHECKING, Any

from noisescale.app.command import in_sweep, output_dir

if TYPE_CHECKING:
    import pytorch_lightning as pl

__all__ = ["log_hyperparameters", "report", "versions", "write_results"]


def write_results(results: dict[str, Any]) -> None:
    """results.json, atomically; a number that is none becomes null."""
    from noisescale.files import write_atomically

    plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in results.items()}
    write_atomically(output_dir() / "results.json", json.dumps(plain, indent=2) + "\n")


def log_hyperparameters(trainer: pl.Trainer, parameters: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Give TensorBoard's hparams page the choices of the run and its final metrics, as hp/..."""
    from pytorch_lightning.loggers import TensorBoardLogger

    finals = {f"hp/{name}": value for name, value in metrics.items() if math.isfinite(value)}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(parameters), finals)
            logger.finalize("success")


def report(results: dict[str, Any]) -> None:
    """The short table at the end."""
    from rich.console import Console
    from rich.table import Table

    run = os.path.relpath(output_dir())
    if in_sweep():
        accuracy = f"test accuracy {results['test/acc']:.4f}" if results.get("test/acc") is not None else "no test accuracy"
        # At once: the output of another process is else held back until it ends.
        print(f"{run}: {results['status']}, {accuracy}, {results['updates']} updates", flush=True)
    else:
        table = Table(show_header=False)
        if "test/acc" in results:
            table.add_row("test accuracy", f"{results['test/acc']:.4f}")
        table.add_row("updates", str(results["updates"]))
        table.add_row("seconds", f"{results['seconds']:.1f}")
        table.add_row("examples/s", f"{results['examples_per_second']:.0f}")
        table.add_row("run", run)
        Console(soft_wrap=True).print(table)
        print(f"{os.path.relpath(Path(sys.prefix) / 'bin' / 'tensorboard')} --logdir {run}")
    if results["message"]:
        print(results["message"], file=sys.stderr)


def versions() -> dict[str, Any]:
    """Versions of what ran, and the commit; null outside a checkout."""
    import torch

    from noisescale import __version__

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

"""Report the results of a run at its end: results.json, and a short table or the line of a sweep."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from noisescale import __version__
from noisescale.app.choices import choices
from noisescale.app.commit import commit
from noisescale.app.config import in_sweep, output_dir, typed
from noisescale.app.ending import PLANS_END
from noisescale.app.machine import machine
from noisescale.app.outcome import Outcome
from noisescale.app.sweeps import what_differs
from noisescale.files import write_atomically
from noisescale.studies.headline import headline

__all__ = ["leave_results", "versions"]


def leave_results(cfg: DictConfig, outcome: Outcome, num_examples: int) -> None:
    """Write results.json, and print the short table.

    Args:
        cfg: the composed config.
        outcome: how the run ended.
        num_examples: N, the number of examples of one pass.
    """
    results = {
        **outcome.metrics,
        "updates": outcome.updates,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 3),
        "examples_per_second": round(outcome.examples_per_second, 1),
        "num_examples": num_examples,
        "max_micro_batch_size": outcome.micro_batch_limit,
        "status": outcome.status,
        "reason": outcome.reason,
        "seed": cfg.seed,
        "overrides": typed(),
        "choices": choices(cfg),
        **versions(),
    }
    # JSON has neither nan nor inf, so they become null.
    plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in results.items()}
    write_atomically(output_dir() / "results.json", json.dumps(plain, indent=2) + "\n")
    _print_table(results)


def _print_table(results: Mapping[str, Any]) -> None:
    run, metric = os.path.relpath(output_dir()), headline(results)
    if results["status"] == "failed" and not in_sweep():  # its error is the only line
        return
    if in_sweep():
        tested = f"{metric[0]} {metric[1]:.4f}" if metric is not None else "not tested"
        # Flushed, because otherwise the output of a process of the pool would appear only when that process ends.
        print(f"{what_differs() or run}: {results['status']}, {tested}, {results['updates']} updates", flush=True)
    else:
        table = Table(show_header=False)
        if metric is not None:
            table.add_row(metric[0], f"{metric[1]:.4f}")
        table.add_row("updates", str(results["updates"]))
        table.add_row("seconds", f"{results['seconds']:.1f}")
        table.add_row("examples/s", f"{results['examples_per_second']:.0f}")
        table.add_row("run", run)
        Console(width=len(run) + 40, soft_wrap=True).print(table)  # the path is not cut in pieces
        print(shlex.join([os.path.relpath(Path(sys.prefix) / "bin" / "tensorboard"), "--logdir", run]))
    if results["status"] == "diverged":
        print(results["reason"], file=sys.stderr)
    elif results["reason"] != PLANS_END and results["status"] not in ("interrupted", "failed"):
        print(f"{results['status']}: {results['reason']}", file=sys.stderr)


def versions() -> dict[str, Any]:
    """The versions of the software that ran, the machine, and the commit; the commit is None outside a git checkout."""
    versions = {
        "noisescale": __version__,
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    return {"versions": versions, "machine": machine(_accelerator()), "commit": commit()}


def _accelerator() -> str:
    """The name of the GPU if this process has used one."""
    return torch.cuda.get_device_name() if torch.cuda.is_initialized() else ""

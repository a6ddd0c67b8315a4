"""python -m benchmarks.soak: memory and open files of a process that carries out many short runs of a sweep, and whether all can be read.

A thousand runs in one process, then two hundred in the two processes of the pool. It fails if memory or descriptors grow, if a run is not
completed, or if TensorBoard does not find the points of every run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from benchmarks.measure import ROOT
from noisescale.files import read_rows, write_rows

__all__ = ["Usage", "Watch", "growth", "main", "parser", "soak"]

SHORT = ("data.subset_size=200", "epochs=1", "threads=1")
"""180 examples, 6 updates."""

COLUMNS = ("run", "pid", "when", "megabytes", "descriptors", "threads")

MEGABYTES_PER_RUN = 0.05
"""A process may grow by this much from run to run: 50 MB in a thousand runs."""


@dataclass(frozen=True)
class Usage:
    """What a process holds at the end of its run number `run`, counted from 1.

    Attributes:
        megabytes: resident memory, 10^6 bytes.
        descriptors, threads: how many are open, and how many run.
    """

    run: int
    megabytes: float
    descriptors: int
    threads: int


class Watch(pl.Callback):
    """Leaves a row about its process, in a file of its own in `folder`, when a training ends. Linux only: it reads /proc.

    Args:
        folder: where the rows are collected.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row: dict[str, Any] = {
            "run": Path(str(trainer.default_root_dir)).name,
            "pid": os.getpid(),
            "when": time.time(),
            "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
        }
        write_rows(self.folder / f"{row['when']}-{row['pid']}.csv", COLUMNS, [row], durable=False)


def soak(runs: int, out: Path, options: Sequence[str] = ()) -> list[list[Usage]]:
    """Carry out `runs` short runs as one sweep in `out`; returns what each of its processes held after each of its runs.

    Raises:
        RuntimeError: a run was not completed, or TensorBoard lacks one of its points.
    """
    watch = f"+callbacks.watch._target_={__name__ if __name__ != '__main__' else 'benchmarks.soak'}.Watch"
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SHORT, f"seed=range({runs})", f"hydra.sweep.dir={out}/sweep"]
    command += [watch, f"+callbacks.watch.folder={out}/usage", *options]
    with (out / "log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}, see {out}/log")
    rows = [row for file in (out / "usage").glob("*.csv") for row in read_rows(file)]
    if len(rows) != runs:
        raise RuntimeError(f"{len(rows)} of {runs} runs left a row, see {out}/log")
    check_events(out / "sweep", runs)
    processes: dict[str, list[Usage]] = {}
    for row in sorted(rows, key=lambda row: float(row["when"])):
        usages = processes.setdefault(row["pid"], [])
        usages.append(Usage(len(usages) + 1, float(row["megabytes"]), int(row["descriptors"]), int(row["threads"])))
    return [*processes.values()]


def check_events(sweep: Path, runs: int) -> None:
    """Read all runs as TensorBoard does; raise `RuntimeError` if one is missing, or a point of one."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    all_runs = EventMultiplexer().AddRunsFromDirectory(str(sweep))
    all_runs.Reload()
    if len(all_runs.Runs()) != runs:
        raise RuntimeError(f"TensorBoard finds {len(all_runs.Runs())} of {runs} runs in {sweep}")
    for name in all_runs.Runs():
        steps = [event.step for event in all_runs.Scalars(name, "train/loss")]
        rows = [int(row["step"]) for row in read_rows(sweep / name / "steps.csv")]
        if steps != rows:
            raise RuntimeError(f"TensorBoard has the updates {steps} of run {name}, and its steps.csv {rows}")


def growth(usages: Sequence[Usage]) -> float:
    """Megabytes per run by which a process grows: the slope of the least-squares line over the second half of its runs.

    The first half is left out, because allocators and caches fill up at first.
    """
    half = usages[len(usages) // 2 :]
    runs = [usage.run - sum(each.run for each in half) / len(half) for usage in half]
    square = sum(run * run for run in runs)
    return sum(run * usage.megabytes for run, usage in zip(runs, half, strict=True)) / square if square else 0.0


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    words = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    words.add_argument("--runs", type=int, default=1000, help="runs in one process; default: %(default)s")
    words.add_argument("--pool", type=int, default=200, help="runs in the two processes of hydra/launcher=pool; default: %(default)s")
    words.add_argument("--out", type=Path, help="a folder that keeps the runs; default: they are removed")
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print a table, and return 1 if a process grows."""
    from rich.console import Console
    from rich.table import Table

    options = parser().parse_args(arguments)
    table = Table()
    for column in ("sweep", "process", "run", "MB", "descriptors", "threads", "MB per run"):
        table.add_column(column, justify="left" if column == "sweep" else "right")
    grows = False
    with tempfile.TemporaryDirectory(prefix="noisescale-soak-") as scratch:
        for name, runs, launcher in (("one process", options.runs, ()), ("pool", options.pool, ("hydra/launcher=pool",))):
            if not runs:
                continue
            out = (options.out or Path(scratch)) / name.replace(" ", "-")
            out.mkdir(parents=True)
            for number, usages in enumerate(soak(runs, out, launcher)):
                slope, first, last = growth(usages), usages[min(1, len(usages) - 1)], usages[-1]
                grows |= slope > MEGABYTES_PER_RUN or last.descriptors > first.descriptors or last.threads > first.threads
                for usage in usages:
                    if usage.run in (1, 10, 100, 1000, len(usages)):
                        end = f"{slope:.3f}" if usage is last else ""
                        cells = (usage.run, f"{usage.megabytes:.0f}", usage.descriptors, usage.threads, end)
                        table.add_row(name, str(number), *map(str, cells))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("it grows" if grows else "it does not grow; TensorBoard reads every point of every run")
    return int(grows)


if __name__ == "__main__":
    sys.exit(main())

"""Seconds of 8 short runs on digits: one after the other, and two at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.measure import ROOT, Comparison, Wanted
from benchmarks.startup import environment, scratch

__all__ = ["comparisons"]

SERIAL, TWO = "serial", "joblib, two at once"
RUNS = 8


def comparisons(quick: bool) -> Iterator[Comparison]:
    """train.py -m seed=0,...,7: the default run, of 820 updates, with 8 seeds."""
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    for launcher in ([], joblib):  # caches the byte code
        _seconds(2, ["epochs=1"], launcher)
    runs, options = (2, ["epochs=1"]) if quick else (RUNS, [])
    yield Comparison(
        f"sweep of {runs} runs",
        {SERIAL: partial(_seconds, runs, options, []), TWO: partial(_seconds, runs, options, joblib)},
        [Wanted(TWO, SERIAL, at_most=0.6)],
        per="sweep",
        unit="s",
        examples=runs * 1293 * (1 if quick else 20),
    )


def _seconds(runs: int, options: list[str], launcher: list[str]) -> float:
    out = scratch() / f"sweep-{time.time_ns()}"
    seeds = ",".join(map(str, range(runs)))
    command = [sys.executable, str(ROOT / "train.py"), "-m", "threads=1", f"seed={seeds}", f"hydra.sweep.dir={out}", *options, *launcher]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment(), cwd=scratch(), capture_output=True, check=False)
    seconds = time.perf_counter() - started
    results = [json.loads(file.read_text()) for file in out.glob("*/results.json")]
    if done.returncode or [each["status"] for each in results] != ["completed"] * runs:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr.decode()}")
    return seconds

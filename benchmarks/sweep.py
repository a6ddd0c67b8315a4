"""Seconds for 8 short runs on digits: one after the other, and two at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.measure import ROOT, Comparison, Wanted
from benchmarks.startup import environment, scratch

__all__ = ["comparisons", "seconds_of"]

SERIAL, POOL, JOBLIB = "serial", "pool, two at once", "joblib, two at once"
BY_HAND = "two serial sweeps of half the runs, started together"
RUNS = 8


def comparisons(quick: bool) -> Iterator[Comparison]:
    """train.py -m seed=0,...,7: a run of 820 updates (batch.last=partial) with 8 seeds; then the same with three times as many updates.

    The last contender shows what the machine can do: two processes that are independent of each other.
    """
    pool, joblib = ((f"hydra/launcher={name}", "hydra.launcher.n_jobs=2") for name in ("pool", "joblib"))
    for launcher in ((), pool, joblib):  # unmeasured, to cache the byte code
        seconds_of([range(2)], ["epochs=1"], launcher)
    runs = 2 if quick else RUNS
    for epochs in [1] if quick else [20, 60]:
        options = [f"epochs={epochs}"]
        yield Comparison(
            f"sweep of {runs} runs, {41 * epochs} updates each",
            {
                SERIAL: partial(seconds_of, [range(runs)], options),
                POOL: partial(seconds_of, [range(runs)], options, pool),
                JOBLIB: partial(seconds_of, [range(runs)], options, joblib),
                BY_HAND: partial(seconds_of, [range(runs // 2), range(runs // 2, runs)], options),
            },
            [Wanted(POOL, SERIAL, at_most=0.6), Wanted(JOBLIB, SERIAL), Wanted(BY_HAND, SERIAL)],
            per="sweep",
            unit="s",
            examples=runs * 1293 * epochs,
        )


def seconds_of(sweeps: Sequence[range], options: Sequence[str], launcher: Sequence[str] = ()) -> float:
    """Seconds until all of `sweeps`, each a range of seeds, have ended; they are started together."""
    out = scratch() / f"sweep-{time.time_ns()}"
    common = [sys.executable, str(ROOT / "train.py"), "-m", "threads=1", "batch.last=partial", *options, *launcher]
    commands = [[*common, f"seed={','.join(map(str, seeds))}", f"hydra.sweep.dir={out}/{seeds.start}"] for seeds in sweeps]
    started = time.perf_counter()
    running = [
        subprocess.Popen(command, env=environment(), cwd=scratch(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in commands
    ]
    said = [process.communicate()[0].decode() for process in running]
    seconds = time.perf_counter() - started
    statuses = [json.loads(file.read_text())["status"] for file in out.glob("*/*/results.json")]
    if any(process.returncode for process in running) or statuses != ["completed"] * sum(map(len, sweeps)):
        raise RuntimeError(f"{' '.join(commands[0])}:\n{''.join(said)}")
    return seconds

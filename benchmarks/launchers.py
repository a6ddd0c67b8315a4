"""Seconds for the same small sweep with each way of starting its processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.measure import Comparison, Wanted
from benchmarks.sweep import seconds_of

__all__ = ["comparisons"]

ONE, DDP = "one after another, 1 process", "one after another, 2 processes each (ddp_cpu)"
POOL, JOBLIB, SUBMITIT = "pool, 2 at once", "joblib, 2 at once", "submitit_local, all at once"
RUNS = 4


def comparisons(quick: bool) -> Iterator[Comparison]:
    """train.py -m seed=0,...,3 on digits: a short run, of which the start is a large part, and a longer one."""
    contenders: dict[str, tuple[str, ...]] = {
        ONE: (),
        DDP: ("trainer=ddp_cpu",),
        POOL: ("hydra/launcher=pool", "hydra.launcher.n_jobs=2"),
        JOBLIB: ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        SUBMITIT: ("hydra/launcher=submitit_local",),
    }
    runs = 2 if quick else RUNS
    for epochs in [1] if quick else [10, 60]:
        yield Comparison(
            f"{runs} runs, {41 * epochs} updates each",
            {name: partial(seconds_of, [range(runs)], [f"epochs={epochs}"], words) for name, words in contenders.items()},
            [Wanted(name, ONE) for name in contenders if name != ONE],
            per="sweep",
            unit="s",
            examples=runs * 1293 * epochs,
            once_before=True,
        )

"""A table of runs: what distinguishes them, how they ended, the metric of their test, updates and seconds."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from noisescale.studies.headline import headline
from noisescale.studies.runs import Run

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_runs", "runs_table"]


def print_runs(runs: Sequence[Run], names: Sequence[str], choices: Sequence[Mapping[str, str]], reasons: bool = False) -> None:
    """Print `runs_table`, in the width of the terminal, or as wide as it is if stdout is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 400).print(runs_table(runs, names, choices, reasons))


def runs_table(runs: Sequence[Run], names: Sequence[str], choices: Sequence[Mapping[str, str]], reasons: bool = False) -> Table:
    """A row per run.

    Args:
        runs: the runs.
        names: what the first column calls each of them.
        choices: key -> value of the overrides to show of each run.
        reasons: a last column says why a run has not ended as planned.
    """
    from rich.markup import escape
    from rich.table import Table

    keys = list(dict.fromkeys(key for each in choices for key in each))
    tested = [_metric(run) for run in runs]
    metrics = list(dict.fromkeys(name for name, _ in filter(None, tested)))
    table = Table()
    for column in ("run", *keys, "status", *metrics, "updates", "seconds", *(["reason"] if reasons else [])):
        right = column in (*metrics, "updates", "seconds")
        table.add_column(escape(column), no_wrap=column != "reason", justify="right" if right else "left")
    for run, name, chosen, metric in zip(runs, names, choices, tested, strict=True):
        name_of, value = metric or ("", math.nan)
        updates, seconds = (run.results.get(key) for key in ("updates", "seconds"))
        cells = [
            name,
            *(chosen.get(key, "") for key in keys),
            run.state,
            *("" if name_of != each else f"{value:.4f}" for each in metrics),
            str(updates) if isinstance(updates, int) else "",
            f"{seconds:.1f}" if isinstance(seconds, (int, float)) else "",
            *([run.reason if run.state != "completed" else ""] if reasons else []),
        ]
        table.add_row(*map(escape, cells))
    return table


def _metric(run: Run) -> tuple[str, float] | None:
    try:
        return headline(run.results)
    except (TypeError, ValueError):  # results.json is not ours, or is damaged
        return None

"""A table of runs: what distinguishes them, how they ended, the metric of their test, updates and seconds.

python -m noisescale.studies.table outputs
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noisescale.studies.headline import headline
from noisescale.studies.runs import STATES, Run, runs_in, what_differs

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["main", "print_runs", "table_of"]


def print_runs(runs: Sequence[Run], names: Sequence[str], choices: Sequence[Mapping[str, str]], reasons: bool = False) -> None:
    """Print `table_of`, in the width of the terminal, or as wide as it is if stdout is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 400).print(table_of(runs, names, choices, reasons))


def table_of(runs: Sequence[Run], names: Sequence[str], choices: Sequence[Mapping[str, str]], reasons: bool = False) -> Table:
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of every run in the folders named in `arguments`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m noisescale.studies.table", description="Show every run in folders and below them.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder of runs, such as outputs")
    folders: list[Path] = parser.parse_args(arguments).folders
    for folder in folders:
        if not folder.is_dir():
            print(f"error: {folder}: is not a folder", file=sys.stderr)
            return 2
    runs = list({run.folder.resolve(): run for run in runs_in(*folders)}.values())
    if not runs:
        print(f"error: {', '.join(map(str, folders))}: no training was started there", file=sys.stderr)
        return 2
    print_runs(runs, [os.path.relpath(run.folder) for run in runs], what_differs(runs), reasons=True)
    counts = Counter(run.state for run in runs)
    print(f"{len(runs)} runs: {', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

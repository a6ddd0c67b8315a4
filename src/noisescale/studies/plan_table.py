"""The table of a plan: a row per phase, at most 80 columns wide."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import StringIO
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from noisescale.plans.phases import Phase
from noisescale.plans.summary import PlanSummary

__all__ = ["WIDTH", "print_plan"]

WIDTH = 80
"""Columns of a table that goes to a file or a pipe, unless the environment variable COLUMNS asks for more."""


def print_plan(summary: PlanSummary) -> None:
    """Print the phases of a plan, its totals, its drift, and what momentum does to its noise."""
    plan = summary.plan
    devices = f"{plan.world_size} device{'s' if plan.world_size > 1 else ''}"
    drawn = ", drawn with replacement" if plan.replacement else ""
    print(f"N = {plan.num_examples}{drawn}, {plan.epochs} epochs; B = micro x accumulate x {devices}")
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=_width(), file=StringIO())
    console.print(_table(summary))
    if not terminal:
        assert isinstance(console.file, StringIO)
        print("\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).rstrip())
    print(summary.comparison())
    if splits := summary.splits_in_words():
        print(splits)
    print(summary.drift_in_words())
    for line in summary.all_reduces_in_words():
        print(line)
    if summary.momentum > 0:
        memory = _range([summary.memory(summary.sizes.smallest), summary.memory(summary.sizes.largest)], digits=2)
        print(f"with momentum {summary.momentum:g} the noise is g/(1-m) = {1 / (1 - summary.momentum):.4g} g")
        print(f"the momentum buffer averages over B/(N(1-m)) = {memory} epochs")


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return max(int(columns), WIDTH) if columns.isdecimal() else WIDTH


def _table(summary: PlanSummary) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    columns = ["epochs", "lr", "B", "accumulate", "g", *([] if summary.keeps_g else [summary.matched_noise_formula()]), "updates"]
    for column in columns:
        whole = column in ("epochs", "B", "accumulate", "updates")  # the others may take two lines
        table.add_column(column, justify="right", no_wrap=whole, min_width=max(map(len, column.split())))
    # Consecutive phases with the same cells, such as those of a wave, share one row.
    for cells, group in groupby(summary.phases, key=lambda phase: _cells(summary, phase)):
        phases = list(group)
        table.add_row(f"{phases[0].start:.3g} to {phases[-1].end:.3g}", *cells, str(sum(phase.updates for phase in phases)))
    return table


def _cells(summary: PlanSummary, phase: Phase) -> tuple[str, ...]:
    """The cells of a row without its epochs and its updates, from the first and the last full update of a phase."""
    ends = (phase.first, phase.last)
    cells = [
        _range([summary.rate(update) for update in ends]),
        _range([update.effective_batch_size for update in ends]),
        _range([summary.plan.ways_to_cut(update.effective_batch_size)[0] for update in ends]),
        _range([summary.noise(update) for update in ends]),
    ]
    if not summary.keeps_g:
        cells.append(_range([summary.matched_noise(summary.rate(update), update.effective_batch_size) for update in ends]))
    return tuple(cells)


def _range(values: Sequence[float], digits: int = 3) -> str:
    """`first to last`; or a single number, with one more digit, if the two are written alike."""
    written = dict.fromkeys(_number(value, digits) for value in values)
    return " to ".join(written) if len(written) > 1 else _number(values[0], digits + 1)


def _number(value: float, digits: int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"

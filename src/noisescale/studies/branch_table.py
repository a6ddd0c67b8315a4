"""The table of the branches from one checkpoint: a row per batch size, at most 80 columns wide."""

from __future__ import annotations

import math
import sys
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from noisescale.measures.branch_options import BranchOptions
from noisescale.studies.branch_results import PointFound, RuleFound

__all__ = ["print_point"]

WIDTH = 80


def print_point(found: PointFound, options: BranchOptions) -> None:
    """Print where the branches begin, and a table for each rule."""
    at = found.at
    simple = f"{at.noise_scale:.4g}" if math.isfinite(at.noise_scale) else f"undefined (|G|^2 {at.square:.2g})"
    print(f"epoch {at.epoch:.4g}: B {at.size}, lr {at.lr:.4g}, loss {at.loss:.4g}, B_simple {simple}")
    print(f"branches of {at.examples} examples, {options.seeds} seeds; worse: more than {100 * options.tolerance:g} % lost")
    for rule in found.rules:
        _print(_table(rule), f"learning rate {'linear in B' if rule.rule == 'linear' else 'as the square root of B'}")


def _table(rule: RuleFound) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("B", "lr", "noise", "updates", "loss at end", "vs smallest, 90 %", "verdict"):
        table.add_column(column, justify="left" if column == "verdict" else "right", no_wrap=True)
    for each in rule.sizes:
        loss = f"{each.loss:.3g} +- {each.spread:.1g}" if math.isfinite(each.loss) else "diverged"
        compared = each.compared
        reach = f"{_percent(compared.low)} to {_percent(compared.high)} %" if math.isfinite(compared.mean) else ""
        if each is rule.sizes[0]:
            reach = ""
        table.add_row(str(each.size), f"{each.lr:.3g}", f"{each.noise:.2f}", str(each.updates), loss, reach, compared.verdict)
    return table


def _percent(log_ratio: float) -> str:
    """A ratio of losses, given by its logarithm, as what is lost."""
    return f"{100 * math.expm1(min(log_ratio, 20.0)):+.0f}"


def _print(table: Table, title: str) -> None:
    print(title)
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=WIDTH, file=StringIO())
    console.print(table)
    if not terminal:
        assert isinstance(console.file, StringIO)
        print("\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()), flush=True)

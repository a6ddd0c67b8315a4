"""The table of the branches from one checkpoint: a row per batch size, at most 80 columns wide."""

from __future__ import annotations

import math
import sys
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from noisescale.measures.branch_options import BranchOptions
from noisescale.studies.branch_results import PointFound, RuleFound, SizeFound
from noisescale.studies.branch_words import limit_in_words, percent, percents, verdict

__all__ = ["print_point"]

WIDTH = 80


def print_point(found: PointFound, options: BranchOptions) -> None:
    """Print where the branches begin, what counts as lost, and a table for each rule."""
    at = found.at
    simple = f"{at.noise_scale:.4g}" if math.isfinite(at.noise_scale) else f"undefined (|G|^2 {at.square:.2g})"
    print(f"epoch {at.epoch:.4g}: B {at.size}, lr {at.lr:.4g}, loss {at.loss:.4g}, B_simple {simple}")
    print(f"branches of {at.examples} examples, {options.seeds} seeds")
    for rule in found.rules:
        print(f"learning rate {'linear in B' if rule.rule == 'linear' else 'as the square root of B'}")
        print(limit_in_words(rule))
        _print(_table(rule))


def _table(rule: RuleFound) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("B", "lr", "noise", "updates", "loss", "lost, 90 %", "of gain", "verdict"):
        table.add_column(column, justify="left" if column == "verdict" else "right", no_wrap=True)
    for each in rule.sizes:
        first = each is rule.sizes[0]
        above, lost = ("", "") if first else (_above(each), _lost(each))
        cells = (f"{each.lr:.3g}", f"{each.noise:.2f}", str(each.updates), _loss(each), above, lost)
        table.add_row(str(each.size), *cells, verdict(each, len(rule.reference.ends)))
    return table


def _loss(each: SizeFound) -> str:
    return f"{each.loss:.3g}" if math.isfinite(each.loss) else ""


def _above(each: SizeFound) -> str:
    """The 90 % interval of L / L_smallest - 1."""
    compared = each.compared
    if not math.isfinite(compared.mean):
        return ""
    low, high = (math.expm1(min(bound, 700.0)) for bound in (compared.low, compared.high))
    return percents(low, high)


def _lost(each: SizeFound) -> str:
    """The share of the progress of the smallest batch that is lost."""
    return percent(each.compared.lost) if math.isfinite(each.compared.lost) else ""


def _print(table: Table) -> None:
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=WIDTH, file=StringIO())
    console.print(table)
    if not terminal:
        assert isinstance(console.file, StringIO)
        print("\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()), flush=True)

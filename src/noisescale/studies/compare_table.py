"""The tables of a comparison: a row per arm and a row per run, for the terminal, for Markdown and for HTML."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from noisescale.studies.compare import Arm, Comparison, Member
from noisescale.studies.folding import Spread
from noisescale.studies.headline import in_words

__all__ = ["Cell", "Table", "arms_of", "as_html", "as_markdown", "print_table", "runs_of"]


class Cell(NamedTuple):
    """What a cell shows, and the number by which its column is sorted; None: by the text."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """Names of columns, and rows with a cell for each."""

    columns: list[str]
    rows: list[list[Cell]]

    def is_number(self, column: int) -> bool:
        """Whether a column has numbers and nothing else."""
        return all(row[column].number is not None or not row[column].text for row in self.rows)


def arms_of(comparison: Comparison) -> Table:
    """A row per arm: what distinguishes it, n, final metrics, last training loss, updates, seconds, status."""
    keys = list(dict.fromkeys(key for arm in comparison.arms for key in arm.group.label))
    lasts = [f"last {in_words(tag)}" for tag in comparison.lasts]
    rows = [_arm_row(comparison, arm, keys) for arm in comparison.arms]
    return Table([*keys, "n", *comparison.metrics, *lasts, "updates", "seconds", "status"], rows)


def runs_of(comparison: Comparison) -> Table:
    """A row per run: its folder, arm, seed, status, metrics, updates, seconds, whether it counts, and what is to be said about it."""
    rows = [
        [
            Cell(os.path.relpath(member.run.folder)),
            Cell(arm.group.name),
            _whole(member.seed),
            Cell(member.run.state),
            Cell("yes" if member.counts else "no"),
            *(_tested(member, name) for name in comparison.metrics),
            _whole(member.updates),
            Cell("" if member.seconds is None else f"{member.seconds:.1f}", member.seconds),
            Cell(member.remark),
        ]
        for arm in comparison.arms
        for member in arm.members
    ]
    return Table(["run", "arm", "seed", "status", "counts", *comparison.metrics, "updates", "seconds", "remark"], rows)


def _arm_row(comparison: Comparison, arm: Arm, keys: Sequence[str]) -> list[Cell]:
    low, high = arm.updates or (None, None)
    return [
        *(_value(arm.group.label.get(key, "")) for key in keys),
        Cell(
            f"{len(arm.counted)}" if len(arm.counted) == len(arm.members) else f"{len(arm.counted)} of {len(arm.members)}", len(arm.counted)
        ),
        *(_spread(arm, arm.final(name)) for name in comparison.metrics),
        *(_spread(arm, arm.last(tag)) for tag in comparison.lasts),
        Cell("" if low is None else f"{low}" if low == high else f"{low} to {high}", low),
        Cell("" if arm.seconds is None else f"{arm.seconds:.1f}", arm.seconds),
        Cell(arm.status),
    ]


def _tested(member: Member, name: str) -> Cell:
    found = member.test
    return Cell(f"{found[1]:.4f}", found[1]) if found is not None and found[0] == name else Cell("")


def _spread(arm: Arm, found: Spread | None) -> Cell:
    if found is None:
        return Cell("")
    return Cell(str(found) if found.n == len(arm.counted) else f"{found} (n = {found.n})", found.mean)


def _value(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text)


def _whole(number: int | None) -> Cell:
    return Cell("") if number is None else Cell(str(number), number)


def print_table(table: Table) -> None:
    """Print it, in the width of the terminal, or as wide as it is if stdout is none."""
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table as Shown

    shown = Shown()
    for index, column in enumerate(table.columns):
        shown.add_column(plain(column), no_wrap=column != "status", justify="right" if table.is_number(index) else "left")
    for row in table.rows:
        shown.add_row(*(plain(cell.text) for cell in row))
    Console(width=None if sys.stdout.isatty() else 400).print(shown)


def as_markdown(table: Table) -> str:
    """The same as a table of Markdown."""
    lines = [[_markdown(column) for column in table.columns], ["---:" if table.is_number(i) else "---" for i in range(len(table.columns))]]
    lines += [[_markdown(cell.text) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(text: str) -> str:
    """Text in which nothing is taken for Markdown or HTML."""
    for character in "\\`*_[]<>|$&#~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def as_html(table: Table) -> str:
    """The same as a table of HTML, with a button in the head of each column for the script that sorts by it."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(column)}</button></th>' for column in table.columns)
    rows = "".join(f"<tr>{''.join(_html(cell, table.is_number(i)) for i, cell in enumerate(row))}</tr>\n" for row in table.rows)
    return f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'


def _html(cell: Cell, number: bool) -> str:
    value = cell.text if cell.number is None else repr(float(cell.number))
    return f'<td{" class=number" if number else ""} data-value="{escape(value)}">{escape(cell.text).replace("+-", "±")}</td>'

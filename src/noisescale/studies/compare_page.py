"""A comparison as a page: one HTML file that needs no other file and no network, and the same in Markdown beside its pictures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from noisescale.files import write_atomically
from noisescale.studies.compare import Comparison, counts_in_words
from noisescale.studies.compare_table import arms_of, as_html, as_markdown, runs_of
from noisescale.studies.markdown_page import STYLE

__all__ = ["Picture", "summary_of", "write_html", "write_markdown"]


@dataclass(frozen=True)
class Picture:
    """A PNG file, its heading, and the words for those who do not see it, which are also its caption."""

    path: Path
    heading: str
    words: str


HOW_TO_READ = (
    "An arm is a group of runs whose configs differ in the seed alone.",
    "Values are mean +- standard deviation (n - 1) over the n runs that count. Those are completed, or were stopped by their own limit; "
    "of runs with the same seed one counts.",
    "The last training loss is that of the last epoch. If no run of an arm counts, its updates and seconds are those so far.",
)

_STYLE = (
    STYLE
    + """
td { white-space: nowrap; } td:last-child { white-space: normal; min-width: 10rem; } td.number { text-align: right; }
th button { font: inherit; font-weight: 600; border: 0; padding: 0; background: none; cursor: pointer; text-align: left; color: inherit; }
th button::after { content: " \\2195"; color: #999; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: " \\2193"; color: inherit; }
@media print { th button::after { content: none; } }
"""
)

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const value = row => row.cells[head.cellIndex].dataset.value;
  const compare = (a, b) => a === "" || b === "" ? (a === "") - (b === "")  // what is empty comes last, in both directions
    : sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
};
"""


def summary_of(comparison: Comparison) -> str:
    """`12 runs in 4 arms: 11 completed, 1 diverged`."""
    runs, arms = len(comparison.members), len(comparison.arms)
    states = counts_in_words(member.run.state for member in comparison.members)
    return f"{runs} run{'s' if runs > 1 else ''} in {arms} arm{'s' if arms > 1 else ''}: {states}"


def write_html(comparison: Comparison, pictures: Sequence[Picture], title: str, notes: Sequence[str], file: Path) -> None:
    """Write the page, replacing the file; the pictures are inside it.

    Args:
        comparison: what is shown.
        pictures: files that have been written.
        title: what the page is called, such as the folders that were compared.
        notes: lines to show above the figures.
        file: the HTML file.
    """
    figures = "".join(
        f'<h2>{escape(each.heading)}</h2>\n<figure><img alt="{escape(each.words)}" '
        f'src="data:image/png;base64,{b64encode(each.path.read_bytes()).decode()}">\n<figcaption>{escape(each.words)}</figcaption></figure>\n'
        for each in pictures
    )
    shown_notes = f"<h2>Notes</h2>\n<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>\n" if notes else ""
    text = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style></head>\n<body>\n'
        f"<h1>{escape(title)}</h1>\n<p>{escape(summary_of(comparison))}.</p>\n{as_html(arms_of(comparison))}\n"
        f'<details class="quiet"><summary>How to read this</summary><ul>{_items()}</ul></details>\n{shown_notes}{figures}'
        f"<h2>Every run</h2>\n<details{' open' if len(comparison.members) <= 20 else ''}>"
        f"<summary>{len(comparison.members)} runs</summary>\n{as_html(runs_of(comparison))}\n</details>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )
    _write(file, text)


def write_markdown(comparison: Comparison, pictures: Sequence[Picture], title: str, notes: Sequence[str], file: Path) -> None:
    """The same in Markdown, which refers to the pictures beside it."""
    parts = [f"# {title}", f"{summary_of(comparison)}.", as_markdown(arms_of(comparison)), "\n".join(f"- {line}" for line in HOW_TO_READ)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    for each in pictures:
        parts += [f"## {each.heading}", f"![{each.words}]({each.path.name})"]
    _write(file, "\n\n".join([*parts, "## Every run", as_markdown(runs_of(comparison))]) + "\n")


def _items() -> str:
    return "".join(f"<li>{escape(line).replace('+-', '±')}</li>" for line in HOW_TO_READ)


def _write(file: Path, text: str) -> None:
    write_atomically(file, text, durable=False)

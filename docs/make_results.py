"""Write what the pages say of the verdicts in results/: results/README.md, and in README.md and docs/ every block between

    <!-- verdicts: ... -->  and  <!-- /verdicts -->

and the last column of each row that begins with the name of a claim in docs/claims.md. A block is one of

    counts                                         how many claims are supported, not supported and inconclusive
    lists                                          which ones
    checks CLAIM[: CHECK, ...]                     a row per check: effect, interval, what was claimed, outcome
    arms CLAIM: ARM, ...: METRIC, ...              a row per arm: mean +- standard deviation over the seeds
    costs CLAIM, ...                               a row per pair of equal arms: the ratios of their updates and of their seconds

Run from the repository: make docs, or .venv/bin/python -m docs.make_results. A test fails where the pages and results/ differ.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noisescale.app.claims import names_of_claims
from noisescale.app.reproduce import fingerprints
from noisescale.files import write_atomically
from noisescale.studies.claims.kept import verdicts_in
from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words
from noisescale.studies.claims.page import cell
from noisescale.studies.claims.summary import costs_table, counted, summary_of, write_summary
from noisescale.studies.claims.verdict import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

__all__ = ["BLOCK", "PAGES", "RESULTS", "SCALE", "block", "summary", "with_verdicts"]

ROOT = Path(__file__).resolve().parent.parent
CONF, RESULTS = ROOT / "conf", ROOT / "results"
CLAIMS = ROOT / "docs" / "claims.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCALE = "cpu"
BLOCK = re.compile(r"(<!-- verdicts: (.+?) -->\n)(.*?)(<!-- /verdicts -->)", flags=re.DOTALL)

Verdicts = Mapping[str, Mapping[str, Any]]


def with_verdicts(page: Path, verdicts: Verdicts) -> str:
    """The text of a page with its blocks as the verdicts are."""
    to = "results/" if page.parent == ROOT else "../results/"
    text = BLOCK.sub(lambda found: f"{found[1]}{block(found[2], verdicts, to)}\n{found[4]}", page.read_text())
    return (
        re.sub(r"^(\| `(\w+)` \| .* \|) [^|]* \|$", lambda row: _row(row, verdicts), text, flags=re.MULTILINE) if page == CLAIMS else text
    )


def _row(found: re.Match[str], verdicts: Verdicts) -> str:
    name = found[2]
    if name not in verdicts:
        return f"{found[1]} not run |" if name in names_of_claims(CONF) else found[0]
    return f"{found[1]} [{verdicts[name]['verdict']}](../results/{name}/README.md) |"


def block(what: str, verdicts: Verdicts, to: str) -> str:
    """The text of one block.

    Args:
        what: what is between `verdicts:` and the end of the comment.
        verdicts: those in results/.
        to: the path from the page to results/, with a slash at its end.
    """
    kind, _, rest = what.partition(" ")
    name, _, chosen = rest.partition(": ")
    if kind == "counts":
        return f"Of {len(verdicts)} claims, {counted(verdicts)}: [the verdicts]({to}README.md)."
    if kind == "lists":
        return "\n".join(_lists(verdicts, to))
    if kind in ("checks", "arms") and name not in verdicts:
        return "Not run yet."
    if kind == "checks":
        return "\n".join(_checks(verdicts[name], chosen.split(", ") if chosen else [*verdicts[name]["checks"]]))
    if kind == "arms":
        arms, _, metrics = chosen.partition(": ")
        return "\n".join(_arms(verdicts[name], arms.split(", "), metrics.split(", ")))
    if kind == "costs":
        return costs_table({name: verdicts[name] for name in rest.split(", ") if name in verdicts}) or "Not run yet."
    raise ValueError(f"<!-- verdicts: {what} -->: no such block")


def _lists(verdicts: Verdicts, to: str) -> Iterator[str]:
    for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE):
        links = [f"[{name}]({to}{name}/README.md)" for name, each in verdicts.items() if each["verdict"] == word]
        yield f"- {word.capitalize()}: {', '.join(links) or 'none'}."


def _checks(verdict: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    yield "| check | effect | interval | claimed | outcome |"
    yield "| --- | --- | --- | --- | --- |"
    for name in names:
        check = verdict["checks"][name]
        effect = "" if check["effect"] is None else estimate_in_words(check["effect"], check["low"], check["high"])
        control = " (control)" if check["control"] else ""
        interval = interval_in_words(check["low"], check["high"])
        yield f"| {' | '.join(map(cell, [check['of'] + control, effect, interval, check['claimed'], check['status']]))} |"


def _arms(verdict: Mapping[str, Any], arms: list[str], metrics: list[str]) -> Iterator[str]:
    yield f"| arm | {' | '.join(metrics)} |"
    yield f"| --- | {' | '.join('---' for _ in metrics)} |"
    for arm in arms:
        yield f"| {arm} | {' | '.join(_mean(verdict['values'][metric][arm]) for metric in metrics)} |"


def _mean(values: list[float | None]) -> str:
    found = [value for value in values if value is not None]
    if len(found) < 2:
        return ", ".join(f"{value:.4g}" for value in found)
    mean, spread = statistics.fmean(found), statistics.stdev(found)
    if spread == 0 and mean == round(mean):
        return f"{mean:,.0f}".replace(",", " ") if mean >= 10000 else f"{mean:.0f}"
    return f"{mean:.4g} +- {spread:.2g}"


def summary() -> str:
    """results/README.md."""
    return summary_of(RESULTS, fingerprints(SCALE, CONF))


def main() -> None:
    """Write the pages."""
    write_summary(RESULTS, fingerprints(SCALE, CONF))
    verdicts = verdicts_in(RESULTS)
    for page in PAGES:
        text = with_verdicts(page, verdicts)
        if text != page.read_text():
            write_atomically(page, text)


if __name__ == "__main__":
    main()

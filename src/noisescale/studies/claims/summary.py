"""The page of all verdicts that are kept in a folder, and the tables of other pages that are made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noisescale.files import write_atomically
from noisescale.studies.claims.figure import draw_overview
from noisescale.studies.claims.kept import verdicts_in
from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words
from noisescale.studies.claims.page import RULE, cell
from noisescale.studies.claims.published import finding_of
from noisescale.studies.claims.verdict import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

__all__ = ["costs_table", "counted", "summary_of", "summary_table", "write_summary"]


def counted(verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    """`12 are supported, 5 are not supported, and 8 are inconclusive`."""
    words = [each["verdict"] for each in verdicts.values()]
    counts = [
        f"{words.count(word)} {'is' if words.count(word) == 1 else 'are'} {word}" for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE)
    ]
    return f"{counts[0]}, {counts[1]}, and {counts[2]}"


def summary_table(verdicts: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], to: str = "") -> str:
    """A row per claim: its verdict, the check that decided it with its interval, n and minutes.

    Args:
        verdicts: those that are kept.
        names: all claims, each with the fingerprint that it has now.
        to: the path from the page to the folder, with a slash at its end; empty for the page in the folder itself.
    """
    lines = ["| claim | verdict | what decided | effect | interval | claimed | p | n | minutes |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, now in names.items():
        each = verdicts.get(name)
        if each is None:
            lines.append(f"| {name} | not run | | | | | | | |")
            continue
        check = each["checks"][each["decided_by"]]
        changed = "" if each["fingerprint"] == now else "; the claim has changed since"
        effect = "" if check["effect"] is None else estimate_in_words(check["effect"], check["low"], check["high"])
        interval = interval_in_words(check["low"], check["high"])
        minutes = (each["seconds"] + each["tuning_seconds"]) / 60
        cells = [f"[{name}]({to}{name}/README.md)", f"{each['verdict']}{changed}", f"{each['decided_by']}: {check['of']}", effect, interval]
        cells += [check["claimed"], "" if check["p"] is None else f"{check['p']:.2g}", str(each["seeds"]), f"{minutes:.1f}"]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


def write_summary(folder: Path, names: Mapping[str, str]) -> Path:
    """Write README.md and overview.png of all verdicts that are kept in `folder`; returns the page.

    Args:
        folder: that of the verdicts.
        names: all claims, each with the fingerprint that it has now.

    Raises:
        ConfigError: a finding.md names what is not there.
    """
    verdicts = verdicts_in(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw_overview({name: verdicts.get(name) for name in names}, folder / "overview.png")
    write_atomically(folder / "README.md", summary_of(folder, names))
    return folder / "README.md"


def summary_of(folder: Path, names: Mapping[str, str]) -> str:
    """The page of all verdicts that are kept in `folder`, as Markdown; see `write_summary`."""
    return "\n\n".join(_sections(folder, verdicts_in(folder), names)) + "\n"


def _sections(folder: Path, verdicts: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[str]:
    minutes = sum(each["seconds"] + each["tuning_seconds"] for each in verdicts.values()) / 60
    scales = sorted({each["scale"] for each in verdicts.values()})
    machines = sorted({machine for each in verdicts.values() for machine in each["machines"]})
    yield "# Verdicts"
    yield (
        f"What came out of {len(verdicts)} of {len(names)} claims about learning rates and batch sizes at scale {', '.join(scales)}: "
        f"{counted(verdicts)}. They took {minutes:.0f} minutes of training, summed over the runs, on {'; '.join(machines)}. "
        "[How a verdict comes about](../docs/claims.md#how-a-verdict-comes-about)."
    )
    yield "![for each claim how many of its checks hold, are open and fail](overview.png)"
    yield summary_table(verdicts, names)
    yield (
        "The check is the one that decided: the first of the claim, or the one that failed or is open. Intervals cover 90 %. The minutes "
        "are those of training, tuning included, summed over the runs."
    )
    yield "## What came out"
    for name, each in verdicts.items():
        finding = finding_of(folder / name, each) or f"{each['why'].capitalize()}."
        yield f"**[{name}]({name}/README.md): {each['verdict']}.** {each['sentence']}"
        yield finding
    if failed := [*_failed(verdicts)]:
        yield "## What would have to be true"
        yield "Of each claim that is not supported, the checks that failed:"
        yield "\n".join(["| claim | check | would have to be | is | interval |", "| --- | --- | --- | --- | --- |", *failed])
    if controls := [*_controls(verdicts)]:
        yield "## The controls of the equalities"
        yield "That two arms are equal means something only where a third one differs. Of each claim of an equality:"
        yield "\n".join(
            ["| claim | verdict | control | effect | interval | must be | p |", "| --- | --- | --- | --- | --- | --- | --- |", *controls]
        )
    if costs := costs_table(verdicts):
        yield "## What equal trainings cost"
        yield (
            "The updates and the seconds of the first arm over those of the second, seed by seed, validation included. The arms of a seed "
            "ran at about the same time."
        )
        yield costs
    yield "## How to read this"
    yield RULE
    yield f"```bash\npython reproduce.py claim=all scale={scales[0] if scales else 'cpu'} publish={folder.name}\n```"


def _failed(verdicts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, each in verdicts.items():
        for key, check in each["checks"].items():
            if each["verdict"] == NOT_SUPPORTED and check["status"] == "fails":
                effect = estimate_in_words(check["effect"], check["low"], check["high"])
                cells = [name, f"{key}: {check['of']}", check["claimed"], effect, interval_in_words(check["low"], check["high"])]
                yield f"| {' | '.join(map(cell, cells))} |"


def _controls(verdicts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, each in verdicts.items():
        if not each["costs"]:
            continue
        for key, check in each["checks"].items():
            if check["control"] and check["effect"] is not None:
                effect = estimate_in_words(check["effect"], check["low"], check["high"])
                cells = [name, each["verdict"], f"{key}: {check['of']}", effect, interval_in_words(check["low"], check["high"])]
                cells += [check["claimed"], "" if check["p"] is None else f"{check['p']:.2g}"]
                yield f"| {' | '.join(map(cell, cells))} |"


def costs_table(verdicts: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each pair of arms that a claim calls equal: the ratios of their updates and of their seconds; empty if there is none."""
    rows = []
    for name, each in verdicts.items():
        for arms, cost in each["costs"].items():
            updates, seconds = (cost[key] for key in ("updates", "seconds"))
            interval = interval_in_words(seconds["low"], seconds["high"])
            cells = [name, arms, *(estimate_in_words(of["ratio"], of["low"], of["high"]) for of in (updates, seconds)), interval]
            rows.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(["| claim | arms | updates | seconds | interval |", "| --- | --- | --- | --- | --- |", *rows]) if rows else ""

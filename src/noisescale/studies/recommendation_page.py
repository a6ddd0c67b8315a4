"""A recommendation as a page for people (Markdown) and as a file for programs (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from noisescale.studies.branch_results import SizeFound
from noisescale.studies.branch_words import percent, verdict
from noisescale.studies.measured import Measured
from noisescale.studies.recommendation import Recommendation

__all__ = ["as_json", "page"]


def page(
    found: Recommendation, measured: Measured, command: str, updates: str = "", figures: Sequence[str] = (), verdicts: Sequence[str] = ()
) -> str:
    """The text of recommendation.md.

    Args:
        found, measured: the recommendation, and what it rests on.
        command: the command line to paste.
        updates: a sentence about the updates that the dual saves; empty if there is no dual.
        figures: paths of pictures, relative to the page.
        verdicts: a line for each claim that it relies on, which ends with the path of its page, relative to this page.
    """
    sure = "The measurements decide." if found.is_sure else "Not sure: see what would decide, below."
    lines = [
        "# Which batch size, which learning rate?",
        "",
        f"**B = {found.batch_size}, lr = {found.lr:.3g}**, accumulate {found.accumulate}. {sure}",
        "",
        "```bash",
        command,
        "```",
        "",
        *([updates, ""] if updates else []),
        "## Why",
        "",
        "| about | what was found | it rests on | what would decide |",
        "| --- | --- | --- | --- |",
        *(f"| {each.about} | {each.sentence} | {each.rests_on} | {each.would_decide} |" for each in found.findings),
        "",
        *(line for path in figures for line in (f"![{path.removesuffix('.png')}]({path})", "")),
        *_verdicts(verdicts),
        *_measurements(measured),
    ]
    return "\n".join(lines)


def _verdicts(verdicts: Sequence[str]) -> list[str]:
    if not verdicts:
        return []
    cut = (each.rpartition(": ") for each in verdicts)
    return ["## Which verdicts it relies on", "", *(f"- {said}: [the evidence]({path})" for said, _, path in cut), ""]


def _measurements(measured: Measured) -> list[str]:
    lines = ["## What was measured", ""]
    if measured.speeds:
        lines += ["| B | examples per second | lowest | highest |", "| --- | --- | --- | --- |"]
        lines += [f"| {each.batch_size} | {each.median:.0f} | {each.low:.0f} | {each.high:.0f} |" for each in measured.speeds]
        lines.append("")
    if measured.rates is not None:
        rates = measured.rates
        said = ", ".join(f"{name} {value:.3g}" for name, value in rates.suggestions.items())
        end = "" if rates.diverged_at is None else f"; diverged at {rates.diverged_at:.3g}"
        lines += [f"Range test at B = {rates.batch_size}: {said}{end}.", ""]
        if rates.trials:
            lines += [
                f"Trainings of {rates.trials[0].updates} updates, with the whole schedule and warm-up of the training in that time:",
                "",
                "| lr | loss | of each seed |",
                "| --- | --- | --- |",
            ]
            lines += [f"| {each.lr:.3g} | {_number(each.loss)} | {', '.join(map(_number, each.losses))} |" for each in rates.trials]
            lines.append("")
    if measured.branches:
        lines += [
            "Branches of equal noise. `same`: a loss that is above that of the smallest batch by no more than is allowed, the tolerance. "
            "That is a share of that loss, or half of what the smallest batch gains, whichever is less.",
            "",
            "| epoch | lr in B | B | lr | updates | loss | spread | allowed | of its gain lost | against the smallest |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {point.at.epoch:.3g} | {found.rule} | {each.size} | {each.lr:.3g} | {each.updates} | {_number(each.loss)} "
            f"| {_number(each.spread)} | {_number(found.reference.allowed)} | {_lost(each)} | {verdict(each, len(found.reference.ends))} |"
            for point in measured.branches
            for found in point.rules
            for each in found.sizes
        ]
        lines += ["", "| epoch | lr in B | critical batch | B_simple |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {point.at.epoch:.3g} | {found.rule} | {found.critical.in_words()} | {_number(point.at.noise_scale)} |"
            for point in measured.branches
            for found in point.rules
        ]
        lines.append("")
    return lines


def _lost(each: SizeFound) -> str:
    return percent(each.compared.lost) if math.isfinite(each.compared.lost) else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def as_json(found: Recommendation, measured: Measured, command: str, verdicts: Sequence[str] = ()) -> str:
    """The recommendation and its measurements as JSON; numbers that are not finite are null."""
    content = {"command": command, "is_sure": found.is_sure, "recommendation": asdict(found), "measured": asdict(measured)}
    content |= {"verdicts": list(verdicts)}
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value

"""A verdict that is kept beside the code: a folder with all that it rests on, except the runs.

It holds README.md (its page), claim.png, verdict.json, values.csv (each value of each seed), curves.csv (the curves of each seed), and
finding.md, which is written by hand: what came out, in words. The first line of finding.md is the verdict, and `{check}` in it stands for
the estimate of a check, so that the words cannot give another number, or another verdict, than the measurements do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.files import write_atomically, write_rows
from noisescale.studies.claims.figure import draw_claim
from noisescale.studies.claims.kept import FILE, read_verdict
from noisescale.studies.claims.metrics import Metric
from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words
from noisescale.studies.claims.page import page_of
from noisescale.studies.claims.result import Result
from noisescale.studies.claims.verdict_file import as_json

__all__ = ["FINDING", "check_publishable", "finding_of", "publish"]

FINDING = "finding.md"


def check_publishable(folder: Path, claim: str, scale: str) -> None:
    """Raise a ConfigError if `folder` holds the verdict on the claim at another scale, which would be lost."""
    before = read_verdict(folder / claim / FILE)
    if before is not None and before["scale"] != scale:
        problem = f"holds the verdict on {claim} at scale {before['scale']}"
        raise ConfigError("publish", str(folder), problem, f"choose another folder for scale {scale}")


def publish(result: Result, folder: Path) -> Path:
    """Write the folder of one claim inside of `folder`; returns its page. finding.md, if there is one, becomes part of the page.

    Raises:
        ConfigError: `folder` holds a verdict at another scale, or finding.md names what is not there.
    """
    claim = result.claim
    check_publishable(folder, claim.name, claim.scale)
    place = folder / claim.name
    place.mkdir(parents=True, exist_ok=True)
    verdict = as_json(result)
    draw_claim(result, place / "claim.png")
    write_rows(place / "values.csv", *_values(result))
    if claim.curves and any(result.runs.values()):
        write_rows(place / "curves.csv", *_curves(result))
    write_atomically(place / FILE, json.dumps(verdict, indent=2) + "\n")
    page = place / "README.md"
    write_atomically(page, page_of(result))  # it must not be that of the verdict before, whatever finding.md says
    if finding := finding_of(place, verdict):
        write_atomically(page, page_of(result, finding))
    return page


def _values(result: Result) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows, one per arm and seed: its state, its updates and seconds, and every metric."""
    claim, rows = result.claim, []
    for name in claim.arms:
        for index, seed in enumerate(claim.verdict_seeds):
            run = result.runs[name][index] if name in result.runs else None
            told = {} if run is None else {"state": run.state, **{key: run.results.get(key, "") for key in ("updates", "seconds")}}
            values = {metric: arms[name][index] for metric, arms in result.values.items() if name in arms}
            rows.append({"arm": name, "seed": seed, **told, **{key: "" if value is None else value for key, value in values.items()}})
    return list(dict.fromkeys(["arm", "seed", "state", "updates", "seconds", *result.values])), rows


def _curves(result: Result) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows, one per arm, seed and epoch: those of the figure."""
    names, rows = result.claim.curves, []
    for arm, runs in result.runs.items():
        for seed, run in zip(result.claim.verdict_seeds, runs, strict=True):
            columns = [Metric("epochs", name).column(run.folder) if run is not None else [] for name in names]
            for epoch, values in enumerate(zip(*columns, strict=False), 1):
                rows.append({"arm": arm, "seed": seed, "epoch": epoch, **dict(zip(names, values, strict=True))})
    return ["arm", "seed", "epoch", *names], rows


def finding_of(place: Path, verdict: Mapping[str, Any]) -> str:
    """finding.md with its numbers filled in, without its first line; empty if there is none.

    `{check}` becomes `0.995 (0.985 to 1.005)`, the estimate of a check with its interval; `{metric.arm}` the mean of a metric over the
    seeds of an arm; `{a / b: updates}` and `{a / b: seconds}` what arm a costs over arm b.

    Raises:
        ConfigError: it names something that is not there, or its first line is another verdict.
    """
    file = place / FINDING
    if not file.exists():
        return ""
    first, _, text = file.read_text().partition("\n")
    if first.strip() != f"{verdict['verdict'].capitalize()}.":
        problem = f"was written for another verdict than {verdict['verdict']}"
        raise ConfigError(f"{place.name}/{FINDING}", first.strip(), problem, "write what came out, with the verdict as its first line")

    def filled(found: re.Match[str]) -> str:
        words = _number(found[1], verdict)
        if words is None:
            raise ConfigError(f"{place.name}/{FINDING}", found[0], "is neither a check, nor metric.arm, nor `arm / arm: seconds`")
        return words

    return re.sub(r"\{([^{}\n]+)\}", filled, text).strip()


def _number(name: str, verdict: Mapping[str, Any]) -> str | None:
    if (check := verdict["checks"].get(name)) is not None:
        return "(no estimate)" if check["effect"] is None else _with_interval(check["effect"], check["low"], check["high"])
    arms, _, key = name.partition(": ")
    if (cost := verdict["costs"].get(arms, {}).get(key)) is not None:
        return _with_interval(cost["ratio"], cost["low"], cost["high"])
    metric, _, arm = name.partition(".")
    values = [value for value in verdict["values"].get(metric, {}).get(arm, []) if value is not None]
    if not values:
        return None
    mean = sum(values) / len(values)
    return f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    interval = interval_in_words(low, high)
    return estimate_in_words(value, low, high) + (f" ({interval})" if interval and low != high else "")

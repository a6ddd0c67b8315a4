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
from noisescale.studies.claims.claim import Claim
from noisescale.studies.claims.figure import draw_claim
from noisescale.studies.claims.kept import FILE, verdicts_in
from noisescale.studies.claims.metrics import Metric
from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words
from noisescale.studies.claims.page import page_of
from noisescale.studies.claims.result import Result
from noisescale.studies.claims.verdict_file import as_json

__all__ = ["FINDING", "TITLE", "check_publishable", "finding_of", "publish"]

FINDING = "finding.md"

TITLE = "# Verdicts"
"""How the page of all verdicts begins."""


def check_publishable(folder: Path, claim: Claim) -> None:
    """Raise a ConfigError if `folder` cannot take this verdict, or would lose another one.

    It holds verdicts of one scale, and of each claim those of the same first seed. A README.md that is not the page of verdicts is not
    replaced.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("publish", str(folder), f"cannot be used as a folder ({error.strerror})", "choose another one") from error
    page = folder / "README.md"
    if page.exists() and not page.read_text(errors="replace").startswith(TITLE):
        raise ConfigError(
            "publish", str(folder), "has a README.md that is no page of verdicts, and would be replaced", "choose another folder"
        )
    for name, before in verdicts_in(folder).items():
        if before["scale"] != claim.scale:
            problem = f"holds the verdict on {name} at scale {before['scale']}"
            raise ConfigError("publish", str(folder), problem, f"choose another folder for scale {claim.scale}")
        if name == claim.name and before["first_seed"] != claim.first_seed:
            problem = f"holds the verdict on {name} with seeds from {before['first_seed']}"
            raise ConfigError("publish", str(folder), problem, f"choose another folder for seeds from {claim.first_seed}")


def publish(result: Result, folder: Path) -> Path:
    """Write the folder of one claim inside of `folder`; returns its page. finding.md, if there is one, becomes part of the page.

    Raises:
        ConfigError: `folder` cannot take it, see `check_publishable`; or finding.md names what is not there.
    """
    claim = result.claim
    check_publishable(folder, claim)
    place = folder / claim.name
    place.mkdir(parents=True, exist_ok=True)
    verdict = as_json(result)
    (place / FILE).unlink(missing_ok=True)  # until all of it is of the same verdict
    draw_claim(result, place / "claim.png")
    write_rows(place / "values.csv", *_values(result))
    (place / "curves.csv").unlink(missing_ok=True)
    if claim.curves and any(result.runs.values()):
        write_rows(place / "curves.csv", *_curves(result))
    page = place / "README.md"
    write_atomically(page, page_of(result))  # it must not be that of the verdict before, whatever finding.md says
    write_atomically(place / FILE, json.dumps(verdict, indent=2) + "\n")
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
    first, _, text = file.read_text(errors="replace").partition("\n")
    if first.strip() != f"{verdict['verdict'].capitalize()}.":
        problem = f"was written for another verdict than {verdict['verdict']}"
        raise ConfigError(f"{place.name}/{FINDING}", first.strip(), problem, "write what came out, with the verdict as its first line")

    def filled(found: re.Match[str]) -> str:
        words = _number(" ".join(found[1].split()), verdict)  # it may be broken at the end of a line
        if words is None:
            raise ConfigError(f"{place.name}/{FINDING}", found[0], "is neither a check, nor metric.arm, nor `arm / arm: seconds`")
        return words

    return re.sub(r"\{([^{}]*)\}", filled, text).strip()


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

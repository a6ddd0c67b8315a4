"""The page of a claim: its verdict, each check with effect, interval and n, the arms, and what was trained; and the overview of all."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisescale.files import write_atomically
from noisescale.studies.claims.checks import ALPHA, Check, Outcome
from noisescale.studies.claims.claim import Arm
from noisescale.studies.claims.figure import draw_claim, draw_overview
from noisescale.studies.claims.result import Result
from noisescale.studies.markdown_page import write_html

__all__ = ["NOT_RUN", "page_of", "write_overview", "write_page"]

NOT_RUN = "not run"


def write_page(result: Result, folder: Path) -> Path:
    """Write claim.md, the same as claim.html, claim.png and verdict.json into `folder`, each atomically; returns the page in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_claim(result, folder / "claim.png")
    write_atomically(folder / "verdict.json", json.dumps(_as_json(result), indent=2) + "\n")
    write_atomically(folder / "claim.md", page_of(result))
    write_html(page_of(result), folder / "claim.html")
    return folder / "claim.md"


def page_of(result: Result) -> str:
    """The page as Markdown."""
    return "\n\n".join(_sections(result)) + "\n"


def write_overview(folder: Path, names: Mapping[str, str], title: str) -> Path:
    """Write overview.md, the same as overview.html, and overview.png from the verdicts in the folders of the claims; returns the page.

    Args:
        folder: that of one scale, and of one first seed.
        names: all claims, also those that have not been run, each with the fingerprint that it has now.
        title: its heading.
    """
    found = {name: _read(folder / name / "verdict.json") for name in names}
    lines = ["| claim | verdict | checks: hold, open, fail | n | seconds |", "| --- | --- | --- | --- | --- |"]
    for name, each in found.items():
        if each is None:
            lines.append(f"| {name} | {NOT_RUN} | | | |")
            continue
        states = [check["status"] for check in each["checks"].values()]
        counts = ", ".join(str(states.count(state)) for state in ("holds", "open", "fails"))
        changed = "" if each.get("fingerprint") == names[name] else "; the claim has changed since: run it again"
        verdict = f"**{each['verdict']}**: {_cell(each['why'])}{changed}"
        sentence = f"[{name}]({name}/claim.md): {_cell(each['sentence'])}"
        lines.append(f"| {sentence} | {verdict} | {counts} | {each['seeds']} | {each['seconds']:.0f} |")
    folder.mkdir(parents=True, exist_ok=True)
    draw_overview(found, folder / "overview.png")
    text = [f"# {title}", "![the verdicts](overview.png)", "\n".join(lines), _RULE]
    write_atomically(folder / "overview.md", "\n\n".join(text) + "\n")
    write_html("\n\n".join(text), folder / "overview.html")
    return folder / "overview.md"


_RULE = (
    "Supported: every check holds, as its whole interval lies in the region that was fixed beforehand. Not supported: one fails, as its "
    f"whole interval, at the level {ALPHA:g} divided by the number of checks, lies outside. Inconclusive: anything else, also if a control "
    "does not differ as it must. Intervals are two-sided and cover 90 %, so that one inside (-m, m) is TOST at 5 %; for a check that says "
    "that arms differ in either direction they cover 95 %. What n seeds can see is how far from the bound of a region a true effect must "
    "be for its check to hold with a probability of 80 %, given the spread of these seeds. The seconds are those of training, summed over "
    "the runs."
)


def _sections(result: Result) -> Iterator[str]:
    claim, verdict = result.claim, result.verdict
    yield f"# {claim.name}: {verdict.word}"
    yield claim.sentence
    yield f"Source: {claim.source}"
    yield f"**{verdict.word.capitalize()}** at scale {claim.scale}, with {claim.seeds_in_words}: {verdict.why}."
    if result.failed:
        yield "Missing:\n\n" + "\n".join(f"- {line}" for line in result.failed)
    yield "![the effects of the checks](claim.png)"
    yield "## Checks"
    yield "\n".join(_checks(result))
    yield _RULE
    yield "## Arms"
    yield "\n".join(_arms(result))
    if claim.words:
        seeds = f"seeds {claim.verdict_seeds[0]} to {claim.verdict_seeds[-1]}, the same in every arm"
        yield f"All arms: `{' '.join(claim.words)}`; {seeds}, so that arms begin with the same weights and see the same order."
    if result.tried:
        yield "\n".join(_candidates(result))
    if ends := result.at_ends_of_grids():
        yield f"At an end of its grid, so that a better value may lie beyond it: {', '.join(f'`{each}`' for each in ends)}."
    if claim.notes:
        yield claim.notes
    commits = sorted({str(run.commit) for each in result.runs.values() for run in each if run is not None and run.commit})
    if commits:
        yield f"Runs of commit {', '.join(commits)}."
    again = f" first_seed={claim.first_seed}" if claim.first_seed else ""
    yield f"```bash\npython reproduce.py claim={claim.name} scale={claim.scale}{again}\n```"
    yield f"Runtime: {claim.runtime}."


def _checks(result: Result) -> Iterator[str]:
    yield "| check | effect | estimate | interval | claimed | p | n | n can see | outcome |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, check in result.claim.checks.items():
        outcome = result.verdict.outcomes[name]
        said = f"{name}{' (control)' if check.control else ''}" + (f": {check.says}" if check.says else "")
        cells = [
            said,
            effect_of(check),
            *_numbers(outcome),
            region_of(check),
            _p(outcome),
            _n(outcome),
            _seen(outcome),
            outcome.why or outcome.status,
        ]
        yield "| " + " | ".join(map(_cell, cells)) + " |"


def effect_of(check: Check) -> str:
    """The effect in words: `loss: increase - decay`."""
    arms = list(check.arms)
    if check.effect in ("difference", "unpaired"):
        return f"{check.metric}: {arms[0]} - {arms[1]}"
    if check.effect == "ratio":
        return f"{check.metric}: {arms[0]} / {arms[1]}"
    if check.effect == "mean":
        return f"{check.metric} of {arms[0]}"
    return f"exponent of {check.metric}" if check.effect == "slope" else f"exponent of the best x by {check.metric}"


def region_of(check: Check) -> str:
    """The region that is claimed: `in (-0.1, 0.1)`."""
    if check.inside is not None:
        return f"in ({check.inside[0]:g}, {check.inside[1]:g})"
    if check.outside is not None:
        return f"outside [{check.outside[0]:g}, {check.outside[1]:g}]"
    return f"> {check.above:g}" if check.above is not None else f"< {check.below:g}"


def _arms(result: Result) -> Iterator[str]:
    metrics = list(result.values)
    yield "| arm | words | " + " | ".join(metrics) + " | seconds | diverged |"
    yield "| --- | --- | " + " | ".join("---" for _ in metrics) + " | --- | --- |"
    for name, arm in result.claim.arms.items():
        words = " ".join([arm_in_words(arm), *result.chosen.get(name, ())]).strip()
        runs = [run for run in result.runs.get(name, ()) if run is not None]
        seconds = [float(run.results["seconds"]) for run in runs if isinstance(run.results.get("seconds"), (int, float))]
        diverged = sum(run.state == "diverged" for run in runs)
        cells = [
            name,
            f"`{words}`",
            *(_mean(result.values[metric].get(name, ())) for metric in metrics),
            _mean(seconds),
            str(diverged or ""),
        ]
        yield "| " + " | ".join(map(_cell, cells)) + " |"


def arm_in_words(arm: Arm) -> str:
    """The words of an arm without those of its grid; of a function the call."""
    if arm.function:
        return f"{arm.function}({', '.join(f'{key}={value}' for key, value in arm.arguments.items())})"
    return " ".join(arm.words)


def _candidates(result: Result) -> Iterator[str]:
    assert result.claim.tuning is not None
    key, best = result.claim.tuning
    yield f"| arm | candidate | {key}, the {best}imum is chosen |"
    yield "| --- | --- | --- |"
    for arm, candidates in result.tried.items():
        for words, value in candidates.items():
            yield f"| {arm} | `{_cell(words)}` | {'' if value is None else f'{value:.4g}'} |"


def _mean(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return ""
    mean = statistics.fmean(found)
    shown = f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.4g}"
    return f"{shown} ± {statistics.stdev(found):.2g}" if len(found) > 1 else shown


def _numbers(outcome: Outcome) -> tuple[str, str]:
    if outcome.effect is None:
        return "", ""
    return f"{outcome.effect.shown:.3g}", f"[{outcome.low:.3g}, {outcome.high:.3g}]"


def _p(outcome: Outcome) -> str:
    if outcome.effect is not None and outcome.effect.error == 0.0 and outcome.effect.n > 1:
        return "exact"  # all seeds agree, so that there is nothing to test
    return "" if math.isnan(outcome.p) else f"{outcome.p:.2g}"


def _n(outcome: Outcome) -> str:
    return "" if outcome.effect is None else str(outcome.effect.n)


def _seen(outcome: Outcome) -> str:
    """What so many seeds can see, with a power of 80 %: a factor for a ratio, otherwise a difference."""
    if outcome.effect is None or outcome.effect.n < 2 or outcome.effect.error == 0.0:
        return ""
    seen = outcome.effect.detectable(ALPHA)
    return f"x {seen:.3g}" if outcome.effect.is_log else f"{seen:.2g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _as_json(result: Result) -> dict[str, Any]:
    claim, verdict = result.claim, result.verdict
    runs = [run for each in result.runs.values() for run in each if run is not None]
    return {
        "claim": claim.name,
        "scale": claim.scale,
        "sentence": claim.sentence,
        "verdict": verdict.word,
        "why": verdict.why,
        "seeds": claim.seeds,
        "first_seed": claim.first_seed,
        "runs": len(runs),
        "seconds": sum(float(run.results.get("seconds") or 0) for run in runs),
        "commits": sorted({str(run.commit) for run in runs if run.commit}),
        "fingerprint": claim.fingerprint,
        "tried": result.tried,
        "at_ends_of_grids": result.at_ends_of_grids(),
        "chosen": {arm: list(words) for arm, words in result.chosen.items() if words},
        "words": list(claim.words),
        "arms": {name: arm_in_words(arm) for name, arm in claim.arms.items()},
        "checks": {
            name: {
                "status": outcome.status,
                "effect": None if outcome.effect is None else outcome.effect.shown,
                "low": _finite(outcome.low),
                "high": _finite(outcome.high),
                "p": _finite(outcome.p),
                "n": None if outcome.effect is None else outcome.effect.n,
                "detectable": None if outcome.effect is None else _finite(outcome.effect.detectable(ALPHA)),
                "claimed": region_of(claim.checks[name]),
                "control": claim.checks[name].control,
            }
            for name, outcome in verdict.outcomes.items()
        },
        "values": {metric: {arm: list(each) for arm, each in arms.items()} for metric, arms in result.values.items()},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"verdict", "why", "checks", "seeds", "seconds", "sentence"} <= found.keys() else None

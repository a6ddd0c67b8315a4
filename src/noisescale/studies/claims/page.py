"""The page of a claim: its verdict, each check with effect, interval and n, what the arms cost, and what was trained."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from noisescale.files import write_atomically
from noisescale.studies.claims.checks import ALPHA, Outcome
from noisescale.studies.claims.costs import Cost, costs_of
from noisescale.studies.claims.effects import Effect
from noisescale.studies.claims.figure import draw_claim
from noisescale.studies.claims.kept import FILE
from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words
from noisescale.studies.claims.result import Result
from noisescale.studies.claims.verdict_file import arm_in_words, as_json, effect_of, region_of
from noisescale.studies.markdown_page import write_html

__all__ = ["RULE", "cell", "page_of", "write_page"]


def write_page(result: Result, folder: Path) -> Path:
    """Write claim.md, the same as claim.html, claim.png and verdict.json into `folder`, each atomically; returns the page in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_claim(result, folder / "claim.png")
    write_atomically(folder / FILE, json.dumps(as_json(result), indent=2) + "\n")
    write_atomically(folder / "claim.md", page_of(result))
    write_html(page_of(result), folder / "claim.html")
    return folder / "claim.md"


def page_of(result: Result, finding: str = "") -> str:
    """The page as Markdown.

    Args:
        result: what came out.
        finding: paragraphs in words about it, which come first.
    """
    return "\n\n".join(_sections(result, finding)) + "\n"


RULE = (
    "Supported: every check holds, as its whole interval lies in the region that was fixed beforehand. Not supported: one fails, as its "
    f"whole interval, at the level {ALPHA:g} divided by the number of checks, lies outside. Inconclusive: anything else, also if a control "
    "does not differ as it must. Intervals are two-sided and cover 90 %, so that one inside (-m, m) is TOST at 5 %; for a check that says "
    "that arms differ in either direction they cover 95 %. What n seeds can see is how far from the bound of a region a true effect must "
    "be for its check to hold with a probability of 80 %, given the spread of these seeds. The seconds are those of training, summed over "
    "the runs."
)


def _sections(result: Result, finding: str) -> Iterator[str]:
    claim, verdict = result.claim, result.verdict
    yield f"# {claim.name}: {verdict.word}"
    yield claim.sentence
    yield f"Source: {claim.source}"
    yield f"**{verdict.word.capitalize()}** at scale {claim.scale}, with {claim.seeds_in_words}: {verdict.why}."
    if finding:
        yield finding
    if result.failed:
        yield "Missing:\n\n" + "\n".join(f"- {line}" for line in result.failed)
    yield "![the effects of the checks](claim.png)"
    yield "## Checks"
    yield "\n".join(_checks(result))
    yield RULE
    if costs := costs_of(result):
        yield "## Cost"
        yield "\n".join(_costs(costs))
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
    machines = sorted({str(run.results["machine"]) for each in result.runs.values() for run in each if run and run.results.get("machine")})
    if machines:
        yield f"Trained on {'; '.join(machines)}."
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
        yield "| " + " | ".join(map(cell, cells)) + " |"


def _costs(costs: Sequence[Cost]) -> Iterator[str]:
    """Each pair of arms that the claim calls equal: how many updates and seconds the first takes over the second."""
    yield "| arms | updates | seconds, validation included | interval |"
    yield "| --- | --- | --- | --- |"
    for cost in costs:
        updates, seconds = (_estimate(effect) for effect in (cost.updates, cost.seconds))
        yield f"| {cost.arms[0]} / {cost.arms[1]} | {updates[0]} | {seconds[0]} | {seconds[1]} |"


def _estimate(effect: Effect) -> tuple[str, str]:
    low, high = effect.interval(ALPHA)
    return estimate_in_words(effect.shown, low, high), interval_in_words(low, high)


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
        yield "| " + " | ".join(map(cell, cells)) + " |"


def _candidates(result: Result) -> Iterator[str]:
    assert result.claim.tuning is not None
    key, best = result.claim.tuning
    yield f"| arm | candidate | {key}, the {best}imum is chosen |"
    yield "| --- | --- | --- |"
    for arm, candidates in result.tried.items():
        for words, value in candidates.items():
            yield f"| {arm} | `{cell(words)}` | {'' if value is None else f'{value:.4g}'} |"


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
    low, high = outcome.low, outcome.high
    return estimate_in_words(outcome.effect.shown, low, high), interval_in_words(low, high)


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


def cell(text: str) -> str:
    """Text as one cell of a table."""
    return text.replace("|", "\\|")

"""verdict.json: what came out of a claim, for programs and for the pages that are made from it."""

from __future__ import annotations

import math
from typing import Any

from noisescale.studies.claims.checks import ALPHA, Check, Outcome
from noisescale.studies.claims.claim import Arm, Claim
from noisescale.studies.claims.costs import costs_of
from noisescale.studies.claims.effects import Effect
from noisescale.studies.claims.result import Result
from noisescale.studies.claims.verdict import NOT_SUPPORTED, SUPPORTED, Verdict

__all__ = ["arm_in_words", "as_json", "decided_by", "effect_of", "region_of"]


def decided_by(claim: Claim, verdict: Verdict) -> str:
    """The check that a table shows for the claim. Supported: the one with the largest p, because all must hold, leaving out those in which
    all seeds agree exactly. Not supported: the one that fails with the largest p of holding. Inconclusive: the first control that does not
    come out, or else the first check that is open.
    """
    own = [name for name, check in claim.checks.items() if not check.control]
    outcomes = verdict.outcomes
    if verdict.word == SUPPORTED:
        return max(own, key=lambda name: _p_of(outcomes[name]))
    if verdict.word == NOT_SUPPORTED:
        return max((name for name in own if outcomes[name].status == "fails"), key=lambda name: _p_of(outcomes[name]))
    blind = [name for name, check in claim.checks.items() if check.control and outcomes[name].status != "holds"]
    return next(iter([*blind, *(name for name in own if outcomes[name].status == "open"), *own]))


def _p_of(outcome: Outcome) -> float:
    exact = outcome.effect is None or outcome.effect.error == 0.0 or math.isnan(outcome.p)
    return -1.0 if exact else outcome.p


def as_json(result: Result) -> dict[str, Any]:
    """What verdict.json holds: the words, the rule and the outcome of every check, and every value it rests on."""
    claim, verdict = result.claim, result.verdict
    runs = [run for each in result.runs.values() for run in each if run is not None]
    told = [run.results for run in runs]
    return {
        "claim": claim.name,
        "scale": claim.scale,
        "sentence": claim.sentence,
        "verdict": verdict.word,
        "why": verdict.why,
        "seeds": claim.seeds,
        "first_seed": claim.first_seed,
        "runs": len(runs),
        "seconds": sum(float(each.get("seconds") or 0) for each in told),
        "tuning_seconds": result.tuning_seconds,
        "commits": sorted({str(run.commit) for run in runs if run.commit}),
        "machines": sorted({str(each["machine"]) for each in told if each.get("machine")}),
        "versions": sorted(
            {", ".join(f"{name} {number}" for name, number in (each.get("versions") or {}).items()) for each in told} - {""}
        ),
        "fingerprint": claim.fingerprint,
        "tried": result.tried,
        "at_ends_of_grids": result.at_ends_of_grids(),
        "chosen": {arm: list(words) for arm, words in result.chosen.items() if words},
        "words": list(claim.words),
        "arms": {name: arm_in_words(arm) for name, arm in claim.arms.items()},
        "decided_by": decided_by(claim, verdict),
        "costs": {
            " / ".join(cost.arms): {
                "updates": _interval(cost.updates),
                "seconds": _interval(cost.seconds),
            }
            for cost in costs_of(result)
        },
        "checks": {
            name: {
                "status": outcome.status,
                "effect": None if outcome.effect is None else outcome.effect.shown,
                "low": _finite(outcome.low),
                "high": _finite(outcome.high),
                "p": _finite(outcome.p),
                "n": None if outcome.effect is None else outcome.effect.n,
                "detectable": None if outcome.effect is None else _finite(outcome.effect.detectable(ALPHA)),
                "of": effect_of(claim.checks[name]),
                "says": claim.checks[name].says,
                "claimed": region_of(claim.checks[name]),
                "control": claim.checks[name].control,
                "equality": claim.checks[name].is_equality,
                "exact": outcome.effect is not None and outcome.effect.n > 1 and outcome.effect.error == 0.0,
            }
            for name, outcome in verdict.outcomes.items()
        },
        "values": {metric: {arm: list(each) for arm, each in arms.items()} for metric, arms in result.values.items()},
    }


def _interval(effect: Effect) -> dict[str, float | None]:
    low, high = effect.interval(ALPHA)
    return {"ratio": effect.shown, "low": _finite(low), "high": _finite(high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
        return f"in ({check.inside[0]:.7g}, {check.inside[1]:.7g})"
    if check.outside is not None:
        return f"outside [{check.outside[0]:.7g}, {check.outside[1]:.7g}]"
    return f"> {check.above:.7g}" if check.above is not None else f"< {check.below:.7g}"


def arm_in_words(arm: Arm) -> str:
    """The words of an arm without those of its grid; of a function the call."""
    if arm.function:
        return f"{arm.function}({', '.join(f'{key}={value}' for key, value in arm.arguments.items())})"
    return " ".join(arm.words)

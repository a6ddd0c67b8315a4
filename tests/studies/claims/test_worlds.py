"""A rule that can fail: for every claim, data on which its verdict is supported, not supported, and inconclusive."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from noisescale.app.claims import claim_at, names_of_claims, scales_of
from noisescale.studies.claims.checks import Check, Values
from noisescale.studies.claims.claim import Claim
from noisescale.studies.claims.verdict import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, judge
from tests.helpers.repository import CONF

WORLDS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("worlds.yaml").read_text())


@cache
def claims(name: str) -> list[Claim]:
    return [claim_at(name, scale, CONF) for scale in scales_of(name, CONF)]


def values(world: dict[str, Any], changes: dict[str, Any], seeds: int, noise: float | None = None) -> Values:
    """The values of a world, with other values in some arms, and noise that differs from seed to seed."""
    random, size = np.random.default_rng(0), world.get("noise", 0.01) if noise is None else noise
    found: dict[str, dict[str, list[float | None]]] = {}
    for metric, arms in world["supported"].items():
        found[metric] = {}
        for arm, value in {**arms, **changes.get(metric, {})}.items():
            factors = 1 + size * random.standard_normal(seeds)
            found[metric][arm] = [None] * seeds if value is None else (value * factors).tolist()
    return found


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, world in WORLDS.items():
        yield name, SUPPORTED, {}
        for verdict in (NOT_SUPPORTED, INCONCLUSIVE):
            for changes in world.get(verdict, ()):
                yield name, verdict, changes


@pytest.mark.parametrize(("name", "verdict", "changes"), list(cases()), ids=str)
def test_a_claim_is_judged_by_its_data(name: str, verdict: str, changes: dict[str, Any]) -> None:
    for claim in claims(name):
        assert judge(claim, values(WORLDS[name], changes, max(5, claim.seeds))).word == verdict


@pytest.mark.parametrize("name", names_of_claims(CONF))
def test_a_claim_has_such_data(name: str) -> None:
    assert name in WORLDS, f"add {name} to worlds.yaml"
    assert WORLDS[name].keys() - {"noise"} == {SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE}
    assert all(WORLDS[name].values())


def test_there_is_no_data_of_claims_that_are_gone() -> None:
    assert WORLDS.keys() <= {*names_of_claims(CONF)}


def broken(check: Check, base: dict[str, float]) -> dict[str, float]:
    """Values of the arms of a check that are outside of its region, far enough for any of its margins.

    Args:
        check: the check.
        base: the values of all arms in the world in which it holds.
    """
    first, *others = check.arms
    if check.effect == "optimum_slope":
        families = [check.curve[x] for x in check.curve]
        grids = [sorted(points.values()) for points in families]
        places = [
            grid[1 if family == 0 else -2] if check.below is not None else math.sqrt(grid[0] * grid[-1])
            for family, grid in enumerate(grids)
        ]
        return {  # a very high exponent, or 0
            arm: 1 - 0.01 * math.log(at / place) ** 2 for points, place in zip(families, places, strict=True) for arm, at in points.items()
        }
    if check.effect in ("ratio", "slope"):
        low, high = check.outside or (check.low, check.high)
        wrong = (
            math.sqrt(low * high)
            if check.outside and low > 0
            else (low + high) / 2
            if check.outside
            else high + 3
            if high < math.inf
            else low / 3
        )
        if check.effect == "slope":
            wrong = (low + high) / 2 if check.outside else high + 1 if high < math.inf else low - 1
            return {arm: base[first] * (float(x) / float(check.curve[first])) ** wrong for arm, x in check.curve.items()}
        return {first: base[others[0]] * wrong}
    far = 0.3 * max(abs(base[arm]) for arm in check.arms) + 1
    low, high = check.outside or (check.low, check.high)
    wrong = (low + high) / 2 if check.outside else high + far if high < math.inf else low - far
    return {first: wrong + sum(base[arm] for arm in others)}


def every_check() -> Iterator[tuple[str, str]]:
    for name in names_of_claims(CONF):
        yield from ((name, check) for check in dict.fromkeys(check for claim in claims(name) for check in claim.checks))


@pytest.mark.parametrize(("name", "which"), list(every_check()), ids=str)
def test_each_check_alone_can_turn_the_verdict(name: str, which: str) -> None:
    """In the world in which the claim is true, other values in the arms of one check refute the claim, or blind it if it is a control."""
    world = WORLDS[name]
    for claim in claims(name):
        if (check := claim.checks.get(which)) is None:
            continue
        changes = {check.metric: broken(check, world[SUPPORTED][check.metric])}
        seeds = max(5, claim.seeds)
        assert judge(claim, values(world, {}, seeds, noise=1e-8)).word == SUPPORTED
        verdict = judge(claim, values(world, changes, seeds, noise=1e-8))
        if check.control:
            assert verdict.outcomes[which].status != "holds"
            assert verdict.word != SUPPORTED
        else:
            assert verdict.outcomes[which].status == "fails"
            assert verdict.word == NOT_SUPPORTED

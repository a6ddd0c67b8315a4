"""A rule that can fail: for every claim, data on which its verdict is supported, not supported, and inconclusive."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from noisescale.app.claims import claim_at, names_of_claims, scales_of
from noisescale.studies.claims.checks import Values
from noisescale.studies.claims.claim import Claim
from noisescale.studies.claims.verdict import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, judge
from tests.helpers.repository import CONF

WORLDS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("worlds.yaml").read_text())


@cache
def claims(name: str) -> list[Claim]:
    return [claim_at(name, scale, CONF) for scale in scales_of(name, CONF)]


def values(world: dict[str, Any], changes: dict[str, Any], seeds: int) -> Values:
    """The values of a world, with other values in some arms, and noise that differs from seed to seed."""
    random = np.random.default_rng(0)
    found: dict[str, dict[str, list[float | None]]] = {}
    for metric, arms in world["supported"].items():
        found[metric] = {}
        for arm, value in {**arms, **changes.get(metric, {})}.items():
            noise = 1 + world.get("noise", 0.01) * random.standard_normal(seeds)
            found[metric][arm] = [None] * seeds if value is None else (value * noise).tolist()
    return found


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, world in WORLDS.items():
        yield name, SUPPORTED, {}
        for verdict in (NOT_SUPPORTED, INCONCLUSIVE):
            for changes in world[verdict]:
                yield name, verdict, changes


@pytest.mark.parametrize(("name", "verdict", "changes"), list(cases()), ids=str)
def test_a_claim_is_judged_by_its_data(name: str, verdict: str, changes: dict[str, Any]) -> None:
    for claim in claims(name):
        assert judge(claim, values(WORLDS[name], changes, max(5, claim.seeds))).word == verdict


def test_every_claim_has_such_data() -> None:
    assert set(WORLDS) == set(names_of_claims(CONF))

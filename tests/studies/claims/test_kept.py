"""Which verdicts a plan relies on, and the lines that say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisescale.plans.duality import CyclicBatch, Dual
from noisescale.plans.strategies import BatchStrategy, Fixed
from noisescale.schedules import Constant, Cosine, Cyclic, WarmedUp, Warmup
from noisescale.studies.claims.kept import FILE, KEYS, claims_behind, verdicts_in_words
from tests.helpers.repository import CONF

COSINE, CYCLIC = Cosine(T_max=5), Cyclic(base_lr=0.1, step_size_up=1)


@pytest.mark.parametrize(
    ("schedule", "strategy", "optimizer", "claims"),
    [
        (COSINE, Dual(8), "SGD", ["dual", "stability_edge"]),
        (COSINE, Dual(8), "Adam", ["dual_adam"]),
        (CYCLIC, Dual(8), "SGD", ["cyclic_dual", "stability_edge"]),
        (Constant(), CyclicBatch(8, base_factor=0.1, step_size_up=1), "SGD", ["cyclic_dual", "stability_edge"]),
        (Constant(), Dual(8), "SGD", []),
        (COSINE, Fixed(8), "SGD", []),
        (COSINE, Fixed(64, lr_rule="linear", reference_size=8), "SGD", ["rate_and_batch"]),
        (WarmedUp(Warmup(1), COSINE), Dual(8), "SGD", ["dual", "stability_edge", "warmup"]),
        (WarmedUp(Warmup(1), Constant()), Dual(8), "SGD", ["warmup"]),
        (lambda epoch: 1.0, Fixed(8), "SGD", []),
    ],
)
def test_what_a_plan_relies_on(schedule: Callable[[float], float], strategy: BatchStrategy, optimizer: str, claims: list[str]) -> None:
    assert claims_behind(schedule, strategy, optimizer) == claims
    assert all((CONF / "claim" / f"{claim}.yaml").exists() for claim in claims)


def verdict(**changes: Any) -> dict[str, Any]:
    check = {"of": "loss: a / b", "effect": 0.99512, "low": 0.98511, "high": 1.00523}
    found: dict[str, Any] = dict.fromkeys(KEYS, "")
    found |= {"claim": "dual", "scale": "cpu", "verdict": "supported", "seeds": 5, "decided_by": "same"}
    found |= {"words": ["epochs=2", "data=mnist"] if "effect" not in changes else []}
    return {**found, "checks": {"same": {**check, **changes}}}


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "results" / "dual").mkdir(parents=True)
    (tmp_path / "results" / "dual" / FILE).write_text(json.dumps(verdict()))
    lines = [*verdicts_in_words(["warmup", "dual"], tmp_path / "results", tmp_path)]
    assert lines == ["dual: supported with data=mnist (loss: a / b 0.995, 0.985 to 1.005; n = 5): results/dual/README.md"]
    (elsewhere,) = verdicts_in_words(["dual"], tmp_path / "results", tmp_path / "outputs" / "plan")
    assert elsewhere.endswith(": ../../results/dual/README.md")
    (tmp_path / "results" / "dual" / FILE).write_text(json.dumps(verdict(effect=None, low=None, high=None)))
    assert [*verdicts_in_words(["dual"], tmp_path / "results", tmp_path)] == [
        "dual: supported with scale=cpu (n = 5): results/dual/README.md"
    ]
    assert [*verdicts_in_words(["dual"], tmp_path / "elsewhere", tmp_path)] == []

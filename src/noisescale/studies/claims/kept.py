"""Verdicts as they are kept in files, and what rests on them. Standard library only, because plan.py reads them before it plans."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.plans.duality import CyclicBatch, Matched
from noisescale.plans.noise import noise_rule_of
from noisescale.plans.strategies import BatchStrategy
from noisescale.schedules import Constant, Cyclic, WarmedUp
from noisescale.studies.claims.numbers import estimate_in_words, interval_in_words

__all__ = ["FILE", "KEYS", "claims_behind", "read_verdict", "verdicts_in", "verdicts_in_words"]

FILE = "verdict.json"

KEYS = {
    *("claim", "scale", "sentence", "verdict", "why", "decided_by", "seeds", "first_seed", "fingerprint"),
    *("seconds", "tuning_seconds", "machines", "words", "checks", "costs", "values"),
}
"""Without these a file is no verdict, or one of another version."""


def read_verdict(file: Path) -> dict[str, Any] | None:
    """The verdict in a file; None if there is none, or if it cannot be read."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= KEYS else None


def verdicts_in(folder: Path) -> dict[str, dict[str, Any]]:
    """claim -> its verdict, in sorted order, of every claim that is kept in a folder.

    Raises:
        ConfigError: a file is there but is no verdict, as after a merge that was not finished.
    """
    found = {}
    for file in sorted(folder.glob(f"*/{FILE}")):
        verdict = read_verdict(file)
        if verdict is None:
            raise ConfigError("publish", os.path.relpath(file), "is no verdict of this version", "run the claim again, or restore the file")
        found[file.parent.name] = verdict
    return found


def claims_behind(schedule: Callable[[float], float], strategy: BatchStrategy, optimizer: str) -> list[str]:
    """The claims that a plan relies on: that its batch may carry the noise of the schedule, that its rate goes with its batch, its warm-up.

    Args:
        schedule: with its warm-up.
        strategy: of the batch.
        optimizer: its class name, which decides how its noise depends on the batch.
    """
    rest = schedule.schedule if isinstance(schedule, WarmedUp) else schedule
    found = []
    cyclic = isinstance(strategy, CyclicBatch) or isinstance(rest, Cyclic)
    if isinstance(strategy, Matched) and (cyclic or not isinstance(rest, Constant)):
        found += ["cyclic_dual" if cyclic else "dual", "stability_edge"] if noise_rule_of(optimizer) == "sgd" else ["dual_adam"]
    if strategy.lr_rule != "none":
        found.append("rate_and_batch")
    if rest is not schedule:
        found.append("warmup")
    return found


def verdicts_in_words(claims: Iterable[str], folder: Path, start: Path) -> Iterator[str]:
    """A line for each claim whose verdict is kept, with what decided it and the path of its page.

    `dual: supported with data=mnist (loss: increase / decay 0.995, 0.985 to 1.005; n = 5): results/dual/README.md`

    Args:
        claims: their names.
        folder: that of the verdicts.
        start: the folder from which the path of each page is given.
    """
    for name in claims:
        verdict = read_verdict(folder / name / FILE)
        check = verdict["checks"].get(verdict.get("decided_by")) if verdict is not None else None
        if verdict is None or check is None:
            continue
        measured = ""
        if check["effect"] is not None:
            low, high = check["low"], check["high"]
            measured = f"{check['of']} {estimate_in_words(check['effect'], low, high)}, {interval_in_words(low, high)}; "
        page = os.path.relpath(folder / name / "README.md", start)
        where = next((word for word in verdict["words"] if word.startswith("data=")), f"scale={verdict['scale']}")
        yield f"{name}: {verdict['verdict']} with {where} ({measured}n = {verdict['seeds']}): {page}"

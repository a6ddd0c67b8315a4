"""What two arms cost that a claim calls equal: the ratios of their updates and of their seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noisescale.studies.claims.effects import Effect, ratio
from noisescale.studies.claims.result import Result
from noisescale.studies.runs import COMPLETE, Run

__all__ = ["Cost", "costs_of"]


@dataclass(frozen=True)
class Cost:
    """What the first of two arms costs, over what the second costs, seed by seed; the arms of a seed are trained at about the same time.

    Attributes:
        arms: the two arms.
        updates: the ratio of the numbers of updates.
        seconds: the ratio of the seconds of training, validation included.
    """

    arms: tuple[str, str]
    updates: Effect
    seconds: Effect


def costs_of(result: Result) -> list[Cost]:
    """For each pair of trained arms that a check calls equal, once; none where a run has not ended or has diverged."""
    equal = (check.arms for check in result.claim.checks.values() if check.is_equality and not check.control)
    pairs = dict.fromkeys((first, second) for first, second in equal)
    found = []
    for first, second in pairs:
        updates, seconds = ([_all_of(key, result.runs.get(arm, ())) for arm in (first, second)] for key in ("updates", "seconds"))
        if None not in updates and None not in seconds:
            found.append(Cost((first, second), ratio(*updates), ratio(*seconds)))  # type: ignore[arg-type]
    return found


def _all_of(key: str, runs: Sequence[Run | None]) -> list[float] | None:
    """The value of each run; None unless all have one that is positive."""
    values = [run.results.get(key) for run in runs if run is not None and run.state in COMPLETE and run.state != "diverged"]
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and value > 0]
    return numbers if runs and len(numbers) == len(runs) else None

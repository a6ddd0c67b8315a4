"""The phases of a plan: where nothing changes as long as that lasts, where something does all the time in equal stretches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from noisescale.plans.plan import Update

__all__ = ["Phase", "phases_of"]

_STRETCHES = 10
"""Where rate or batch change all the time, the whole training would be shown by so many stretches of equal length."""
_LASTING = 1 / 25
"""A share of the training in which nothing changes is a phase if it is at least so long."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a plan, in epochs: its first and its last full update, and how many updates it has."""

    first: Update
    last: Update
    start: float
    end: float
    updates: int


def phases_of(updates: Sequence[Update], total: float) -> list[Phase]:
    """In order, all updates in one each; `total` is the length of the training in epochs."""
    runs = list(pairwise([*_changes(updates), len(updates)]))

    def epoch_at(index: int) -> float:
        return updates[index].epoch if index < len(updates) else total

    starts = []
    for lasting, group in groupby(runs, key=lambda run: epoch_at(run[1]) - epoch_at(run[0]) >= _LASTING * total):
        together = list(group)
        if lasting:
            starts += [start for start, _ in together]
        else:
            starts += _stretches(updates, together[0][0], together[-1][1], epoch_at(together[-1][1]), total)
    phases = []
    for start, stop in pairwise([*starts, len(updates)]):
        part = updates[start:stop]
        full = [u for u in part if u.effective_batch_size == u.planned_batch_size] or part
        phases.append(Phase(full[0], full[-1], epoch_at(start), epoch_at(stop), len(part)))
    return phases


def _stretches(updates: Sequence[Update], start: int, stop: int, end: float, total: float) -> list[int]:
    """The first updates of stretches of equal length between two updates."""
    first = updates[start].epoch
    count = max(1, round(_STRETCHES * (end - first) / total))
    span = (end - first) / count
    parts = groupby(range(start, stop), key=lambda i: min(int((updates[i].epoch - first) / span), count - 1))
    return [next(group) for _, group in parts]


def _changes(updates: Sequence[Update]) -> list[int]:
    """The updates whose planned B or rate is new, the first included; smaller windows at the ends of passes count with those before."""
    found, last = [0], updates[0]
    for i, update in enumerate(updates):
        whole = update.effective_batch_size == update.planned_batch_size
        if update.planned_batch_size != last.planned_batch_size or (whole and update.lr_factor != last.lr_factor):
            if i:
                found.append(i)
            last = update
    return found

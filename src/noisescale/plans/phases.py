"""The phases of a plan, for display: each stretch with a constant batch and learning rate; elsewhere, stretches of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from noisescale.plans.plan import Update

__all__ = ["Phase", "phases_of"]

_STRETCHES = 10
"""If the learning rate or the batch changed all the time, the whole training would be shown in this many stretches of equal length."""
_LONG_ENOUGH = 1 / 25
"""A stretch in which nothing changes is a phase of its own if it is at least this share of the training."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a plan, from `start` to `end` in epochs: its first and last full update, and how many updates it has."""

    first: Update
    last: Update
    start: float
    end: float
    updates: int


def phases_of(updates: Sequence[Update], total: float) -> list[Phase]:
    """The phases in order; every update belongs to exactly one. `total` is the length of the training in epochs."""
    runs = list(pairwise([*_changes(updates), len(updates)]))

    def epoch_at(index: int) -> float:
        return updates[index].epoch if index < len(updates) else total

    starts = []
    for long_enough, group in groupby(runs, key=lambda run: epoch_at(run[1]) - epoch_at(run[0]) >= _LONG_ENOUGH * total):
        together = list(group)
        if long_enough:
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
    """The first update of each stretch, where updates `start` to `stop` - 1, up to epoch `end`, are cut into stretches of equal length."""
    first = updates[start].epoch
    count = max(1, round(_STRETCHES * (end - first) / total))
    span = (end - first) / count
    parts = groupby(range(start, stop), key=lambda i: min(int((updates[i].epoch - first) / span), count - 1))
    return [next(group) for _, group in parts]


def _changes(updates: Sequence[Update]) -> list[int]:
    """The indices of the updates at which the planned B or the learning rate changes, and of the first.

    A smaller window at the end of a pass counts with the updates before it.
    """
    found, last = [0], updates[0]
    for i, update in enumerate(updates):
        whole = update.effective_batch_size == update.planned_batch_size
        if update.planned_batch_size != last.planned_batch_size or (whole and update.lr_factor != last.lr_factor):
            if i:
                found.append(i)
            last = update
    return found

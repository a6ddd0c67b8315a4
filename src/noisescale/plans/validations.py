"""When a training is validated inside its epochs: the meaning of Lightning's `val_check_interval` for a plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain, repeat
from typing import Any

from noisescale.errors import ConfigError, check_count, check_number
from noisescale.schedules.schedule import completed

__all__ = ["check_first_epoch", "check_val_check_interval", "validated_updates"]

REMEDY = "give a whole number of updates, or a fraction of the epoch's examples such as 0.25"


def check_val_check_interval(interval: Any, check_val_every_n_epoch: Any) -> None:
    """Raise `ConfigError` unless the intervals between two validations can be planned.

    Args:
        interval: None, a whole number of updates, at least 1; or a fraction of the epoch's examples, a float in (0, 1]. A length of time
            cannot be planned, because it ends anywhere in an update.
        check_val_every_n_epoch: the epochs between two validations; None: `interval`, then a number of updates, is counted over all epochs.
    """
    key = "val_check_interval"
    if isinstance(interval, float):
        check_number(key, interval, above=0.0, at_most=1.0, remedy=REMEDY)
    elif isinstance(interval, int) and not isinstance(interval, bool):
        check_count(key, interval, unit="updates", remedy=REMEDY)
    elif interval is not None:
        raise ConfigError(key, interval, "is neither a number of updates nor a fraction of an epoch", REMEDY)
    if check_val_every_n_epoch is None and not isinstance(interval, int):
        problem = "is not counted over the epochs, as check_val_every_n_epoch=null asks"
        raise ConfigError(key, "null" if interval is None else interval, problem, "give a whole number of updates")


def check_first_epoch(interval: Any, check_val_every_n_epoch: Any, updates: int) -> None:
    """Raise `ConfigError` if `interval` is a number of updates that the first epoch, which has `updates` of them, does not reach.

    Lightning refuses that, too. Later epochs may be shorter, because a batch may grow.
    """
    if check_val_every_n_epoch is not None and isinstance(interval, int) and interval > updates:
        problem = f"the first epoch has {updates} update{'s' if updates > 1 else ''}"
        remedy = f"give at most {updates}, or check_val_every_n_epoch=null to count over all epochs"
        raise ConfigError("val_check_interval", interval, problem, remedy)


def validated_updates(sizes: Sequence[tuple[int, int]], interval: float) -> Collection[int]:
    """The updates of an epoch after which it is validated, counted from 1, in order.

    An int n stands for every n-th update, and for the last update if there are fewer than n. A float f stands for each update that
    completes a multiple of f T, where T is the number of examples of the epoch, however they are divided into updates.

    Args:
        sizes: (number of updates, B in examples) for all updates of the epoch, in order: so many updates in succession with that B.
        interval: n or f.
    """
    if isinstance(interval, int):
        updates = sum(count for count, _ in sizes)
        n = min(interval, updates)
        return range(n, updates + 1, n)
    length = interval * sum(count * size for count, size in sizes)
    found: dict[int, None] = {}
    examples = part = 0
    for update, size in enumerate(chain.from_iterable(repeat(size, count) for count, size in sizes), 1):
        examples += size
        before, part = part, completed(examples, length)
        if part > before:
            found[update] = None
    return found.keys()

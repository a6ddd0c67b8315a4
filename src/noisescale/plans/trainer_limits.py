"""The plan of a training under a trainer's limits: the only place where such limits become a plan."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from noisescale.errors import ConfigError, check_count
from noisescale.plans.duality import resolve_rule
from noisescale.plans.plan import Cursor, Plan, Stretch
from noisescale.plans.strategies import BatchStrategy, Fixed, Full
from noisescale.plans.survey import Progress
from noisescale.schedules import Schedule

__all__ = ["check_max_time", "check_pieces", "check_trainer_limits", "plan_for_trainer", "stretches_of_every_size"]

LOOK_AHEAD = 100_000
"""Updates of a plan without an end that are checked before training; each later one is checked when it starts."""


def check_trainer_limits(max_steps: Any, limit_train_batches: Any) -> None:
    """Raise `ConfigError` unless the limits of a Lightning Trainer can be planned: both must be whole numbers of updates.

    Args:
        max_steps: -1 (no limit), or a number of updates, at least 1.
        limit_train_batches: 1.0 (no limit), or a whole number of updates per epoch, at least 1. A fraction cannot be planned.
    """
    if max_steps != -1:
        check_count("max_steps", max_steps, unit="updates", remedy="-1 for no limit")
    if limit_train_batches != 1.0 or isinstance(limit_train_batches, bool):
        check_count("limit_train_batches", limit_train_batches, unit="updates of each epoch", remedy="1.0 for the whole epoch")


def check_max_time(max_time: Any) -> None:
    """Raise `ConfigError` unless `max_time` is None (no limit) or a length of time above 0, as DD:HH:MM:SS."""
    if max_time is not None and (not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(max_time)) or not str(max_time).strip("0:")):
        raise ConfigError("max_time", max_time, "must be DD:HH:MM:SS, above 0", "for example 00:01:30:00; null for no limit")


def plan_for_trainer(
    schedule: Schedule,
    strategy: BatchStrategy,
    num_examples: int,
    *,
    optimizer: str | None,
    max_epochs: int | None,
    max_steps: int = -1,
    limit_train_batches: float = 1.0,
    world_size: int = 1,
    max_micro_batch_size: int | None = None,
    micro_batch_multiple: int = 1,
    replacement: bool = False,
    min_micro_batch_size: int = 1,
    split_every: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan of a training under the limits of a Lightning Trainer, whose argument names it uses.

    An open horizon of the schedule becomes `max_epochs`, and an open rule of the strategy becomes the rule of the optimizer.

    Args:
        schedule, strategy, num_examples: as in `Plan`; so are world_size, max_micro_batch_size, micro_batch_multiple, replacement,
            min_micro_batch_size, split_every.
        optimizer: the optimizer's class name; None: it does not exist yet, and the strategy must have a rule if it needs one.
        max_epochs: number of epochs; None or -1: no limit.
        progress: see `check_pieces`.
        max_steps, limit_train_batches: see `check_trainer_limits`. 1 is one update per epoch, 1.0 is all updates.

    Raises:
        ConfigError: as in `check_trainer_limits`, `Plan` and `check_pieces`.
    """
    check_trainer_limits(max_steps, limit_train_batches)
    epochs = None if max_epochs in (None, -1) else max_epochs
    plan = Plan(
        schedule if epochs is None else schedule.with_horizon(epochs),
        resolve_rule(strategy, optimizer),
        num_examples,
        epochs,
        world_size,
        max_micro_batch_size,
        micro_batch_multiple,
        min_micro_batch_size,
        max_updates=None if max_steps == -1 else max_steps,
        max_updates_per_epoch=limit_train_batches if isinstance(limit_train_batches, int) else None,
        replacement=replacement,
        split_every=split_every,
    )
    check_pieces(plan, progress)
    return plan


def check_pieces(plan: Plan, progress: Progress | None = None) -> None:
    """Raise `ConfigError` at the first update that cannot be cut into micro-batches of at least `min_micro_batch_size` examples.

    Args:
        progress: is called with the share of the plan that has been checked, 0 to 1.
    """
    if plan.min_micro_batch_size == 1:
        return
    remembered = _can_be_hashed(plan)
    if not remembered or plan not in _CHECKED:
        _check_each_size(plan, progress)
        if remembered:
            _CHECKED.append(plan)


_CHECKED: deque[Plan] = deque(maxlen=4)
"""Plans without such an update: train.py makes the same plan before and after it has read the data, and for training."""


def _can_be_hashed(plan: Plan) -> bool:
    """Whether the schedule and the strategy can be hashed, which those of a user need not be; if they can, they can be compared."""
    try:
        hash(plan)
    except TypeError:
        return False
    return True


def _check_each_size(plan: Plan, progress: Progress | None) -> None:
    seen = set()
    for number, stretch in enumerate(stretches_of_every_size(plan)):
        if stretch.effective_batch_size not in seen:
            seen.add(stretch.effective_batch_size)
            plan.pieces(plan.update_in(stretch), 0)
        if progress is not None and number % 1024 == 0:
            progress(plan.share_before(stretch))


def stretches_of_every_size(plan: Plan) -> Iterator[Stretch]:
    """Stretches that have every batch size of the plan: those of the first pass of a constant batch, otherwise all.

    Their lr_factor may be any number, see `Plan.sizes`.
    """
    if type(plan.strategy) in (Fixed, Full):
        return plan.sizes_of_epoch(0, Cursor())
    if plan.epochs is not None or plan.max_updates is not None:
        return plan.sizes()
    return takewhile(lambda stretch: stretch.step < LOOK_AHEAD, plan.sizes())

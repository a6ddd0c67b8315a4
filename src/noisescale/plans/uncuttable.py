"""The error about an update that cannot be cut into micro-batches of enough examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noisescale.errors import ConfigError

if TYPE_CHECKING:
    from noisescale.plans.plan import Plan, Update

__all__ = ["uncuttable"]


def uncuttable(plan: Plan, update: Update) -> ConfigError:
    """The error of an update with too few examples, or with a limit or a ghost batch that leaves too few of them together."""
    size, least, ghost = update.effective_batch_size, plan.min_micro_batch_size, plan.micro_batch_multiple
    which = f"update {update.start.step} has {size} example{'s' if size > 1 else ''}"
    if size < least:
        problem = f"{which}, and batch norm needs at least {least}"
        if size == update.planned_batch_size:
            return ConfigError("size", getattr(plan.strategy, "size", size), problem, "raise it, or use a model without batch norm")
        others = "carry, drop or spread" if plan.strategy.last == "partial" and update.planned_batch_size > 2 else "carry or drop"
        return ConfigError("last", plan.strategy.last, problem, f"use {others}, or another size")
    if ghost > 1:
        problem = f"{which}, and one of its ghost batches would have fewer than the {least} that batch norm needs"
        return ConfigError("micro_batch_multiple", ghost, problem, "use larger ones, or a batch that is a multiple")
    key = "max_micro_batch_size" if plan.limit == plan.max_micro_batch_size else "micro_batch_size"
    problem = f"{which}, which cannot be cut into micro-batches of at least {least}, as batch norm needs"
    return ConfigError(key, plan.limit, problem, f"use {2 * least - 1} or more")

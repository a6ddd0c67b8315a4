"""The error about an update that cannot be cut into micro-batches of enough examples."""

from __future__ import annotations

from noisescale.errors import ConfigError
from noisescale.plans.strategies import BatchStrategy
from noisescale.plans.stretches import Update

__all__ = ["uncuttable"]


def uncuttable(update: Update, strategy: BatchStrategy, least: int, ghost: int, limit: int | None) -> ConfigError:
    """The error of an update with too few examples, or with a limit or a ghost batch that leaves too few of them together.

    Args:
        update, strategy: the update, and the strategy of its plan.
        least, ghost, limit: `min_micro_batch_size`, `micro_batch_multiple` and `limit` of the plan.
    """
    size = update.effective_batch_size
    which = f"update {update.start.step} has {size} example{'s' if size > 1 else ''}"
    if size < least:
        problem = f"{which}, and batch norm needs at least {least}"
        if size == update.planned_batch_size:
            return ConfigError("size", getattr(strategy, "size", size), problem, "raise it, or use a model without batch norm")
        others = "carry, drop or spread" if strategy.last == "partial" and update.planned_batch_size > 2 else "carry or drop"
        return ConfigError("last", strategy.last, problem, f"use {others}, or another size")
    if ghost > 1:
        problem = f"{which}, and one of its ghost batches would have fewer than the {least} that batch norm needs"
        return ConfigError("micro_batch_multiple", ghost, problem, "use larger ones, or a batch that is a multiple")
    key = "micro_batch_size" if limit == strategy.micro_batch_size else "max_micro_batch_size"
    problem = f"{which}, which cannot be cut into micro-batches of at least {least}, as batch norm needs"
    return ConfigError(key, limit, problem, f"use {2 * least - 1} or more")

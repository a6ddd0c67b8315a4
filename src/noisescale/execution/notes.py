"""Lines about what a user has asked for and a plan does not do."""

from __future__ import annotations

from typing import Any

from noisescale.execution.sampling import sampler_of
from noisescale.plans.plan import Plan

__all__ = ["loader_notes"]


def loader_notes(loader: Any, plan: Plan, reload_every: int) -> list[str]:
    """Lines about options of the user's DataLoader that have no effect under a plan.

    Args:
        loader: the DataLoader, whose examples the plan draws.
        plan: the plan.
        reload_every: the trainer's own `reload_dataloaders_every_n_epochs`.
    """
    notes = []
    sampler = sampler_of(loader)
    if getattr(loader.batch_sampler, "drop_last", False) and plan.strategy.last != "drop":
        notes.append(f"drop_last=True of the DataLoader has no effect: the strategy has last={plan.strategy.last!r}; give it last='drop'")
    if getattr(sampler, "generator", None) is not None or getattr(sampler, "seed", None):
        notes.append("the DataLoader's own generator or seed has no effect on the order of the examples: use BatchSizeScheduler(seed=...)")
    if reload_every:
        notes.append(
            f"reload_dataloaders_every_n_epochs={reload_every} has no effect: the plan was made for the data set of the first DataLoader"
        )
    return notes

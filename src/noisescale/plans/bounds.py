"""What is known beforehand of a plan that is decided during the training: bounds of its batch and of its number of updates."""

from __future__ import annotations

import math

from noisescale.plans.adaptive import FollowNoise, GrowOnPlateau
from noisescale.plans.duality import Dual
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import sizes_follow_clock

__all__ = ["bounds_in_words", "size_bounds", "update_bounds"]


def size_bounds(plan: Plan) -> tuple[int, int]:
    """The smallest and the largest B that an update of the plan can be planned with, in examples."""
    strategy, n = plan.strategy, plan.num_examples
    match strategy:
        case FollowNoise():
            return strategy.min_size, strategy.cap(n)
        case GrowOnPlateau():
            return strategy.size, strategy.cap(n)
        case Dual():
            return strategy.size, strategy.cap(n) if strategy.growth > 0 else strategy.size
    if sizes_follow_clock(strategy):
        sizes = {stretch.planned_batch_size for stretch in plan.sizes()}
        return min(sizes), max(sizes)
    return 1, n


def update_bounds(plan: Plan) -> tuple[int, int] | None:
    """The fewest and the most updates of the training; None if it has no end in epochs."""
    if plan.epochs is None:
        return None
    smallest, largest = size_bounds(plan)
    fewest = (
        math.ceil(plan.epochs * plan.num_examples / largest)
        if plan.strategy.last == "carry"
        else plan.epochs * (plan.num_examples // largest)
    )
    most = plan.epochs * math.ceil(plan.num_examples / smallest)
    limits = [plan.max_updates or most, plan.epochs * (plan.max_updates_per_epoch or most)]
    return min(fewest, *limits), min(most, *limits)


def bounds_in_words(plan: Plan, lr: float) -> list[str]:
    """Lines that say what is known of such a plan."""
    start = plan.choice_at(0.0)
    smallest, largest = size_bounds(plan)
    metrics = ", ".join(sorted(plan.monitors))
    lines = [
        f"decided at the end of each epoch, from {metrics}; there is no table before the training",
        f"B: {start.size} at the start" + (f", {smallest} to {largest} later" if largest > smallest else ", and stays"),
    ]
    if isinstance(plan.strategy, FollowNoise):
        lines[-1] += f", changed by at most {plan.strategy.max_change:g}x from one epoch to the next"
    lines.append(f"lr: {lr * start.lr_factor:.4g} at the start")
    if (updates := update_bounds(plan)) is not None:
        lines.append(f"updates: {updates[0]} to {updates[1]}")
    return lines

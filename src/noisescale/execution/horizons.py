"""Compare the length of a module's own learning-rate schedulers with the plan's.

A scheduler that is stepped per update is given its length in updates, which `len(dataloader) * epochs` no longer is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim import lr_scheduler as torch_schedulers

from noisescale.plans.plan import Plan

__all__ = ["Horizon", "horizon_of", "horizon_warnings", "warn_about_horizons"]


@dataclass(frozen=True)
class Horizon:
    """How long a scheduler is.

    Args:
        words: the scheduler as the user wrote it, with the argument that has the length.
        steps: its length, in calls of `step()`.
        slack: by how many steps a training may be longer: any number after a warm-up, 1 after a decay, whose last value may be meant for
            the last update or for the end, 0 for `OneCycleLR`, which then raises an error.
    """

    words: str
    steps: int
    slack: float = 1

    def fits(self, steps: int) -> bool:
        """Whether it suits a training that calls `step()` so many times."""
        return self.steps - 1 <= steps <= self.steps + self.slack


def horizon_of(scheduler: Any) -> Horizon | None:
    """The length of one of torch's schedulers; None if it has none, such as `StepLR`, or if it is not torch's."""
    name = type(scheduler).__name__
    match scheduler:
        case torch_schedulers.SequentialLR():
            # the schedulers before the last are cut to their milestones
            start, last = scheduler._milestones[-1], horizon_of(scheduler._schedulers[-1])
            if last is None:
                return Horizon(f"{name}(milestones={list(scheduler._milestones)})", start, math.inf)
            return Horizon(f"{name}: {start} + {last.words}", start + last.steps, last.slack)
        case torch_schedulers.ChainedScheduler():
            parts = [horizon for each in scheduler._schedulers if (horizon := horizon_of(each)) is not None]
            decays = [part for part in parts if part.slack < math.inf]
            return max(decays or parts, key=lambda part: part.steps, default=None)
        case torch_schedulers.OneCycleLR():
            return Horizon(f"{name}(total_steps={scheduler.total_steps})", int(scheduler.total_steps), slack=0)
        case torch_schedulers.CosineAnnealingLR():
            return Horizon(f"{name}(T_max={scheduler.T_max})", int(scheduler.T_max))
        case torch_schedulers.CosineAnnealingWarmRestarts():
            return Horizon(f"{name}(T_0={scheduler.T_0})", int(scheduler.T_0), math.inf)
        case torch_schedulers.PolynomialLR():
            return Horizon(f"{name}(total_iters={scheduler.total_iters})", int(scheduler.total_iters))
        case torch_schedulers.LinearLR():
            climbs = scheduler.end_factor >= scheduler.start_factor
            return Horizon(f"{name}(total_iters={scheduler.total_iters})", int(scheduler.total_iters), math.inf if climbs else 1)
        case torch_schedulers.ConstantLR():
            return Horizon(f"{name}(total_iters={scheduler.total_iters})", int(scheduler.total_iters), math.inf)
        case torch_schedulers.MultiStepLR():
            last_milestone = max(scheduler.milestones, default=0)
            return Horizon(f"{name}(milestones={sorted(scheduler.milestones.elements())})", last_milestone, math.inf)
    return None


def horizon_warnings(configs: Iterable[LRSchedulerConfig], plan: Plan) -> list[str]:
    """A line for each scheduler that the plan does not step as often as it is long."""
    lines = []
    for config in configs:
        horizon, steps = horizon_of(config.scheduler), _steps(config, plan)
        if horizon is None or steps is None or horizon.fits(steps):
            continue
        if config.interval == "epoch":
            how, remedy = "once per epoch", '; interval="step" steps it per update' if horizon.steps > steps else ""
        else:
            how, remedy = "once per update", "; trainer.estimated_stepping_batches is this number"
        if config.frequency > 1:
            how, remedy = f"every {config.frequency} {'epochs' if config.interval == 'epoch' else 'micro-batches'}", ""
        if horizon.steps < steps and horizon.slack == 0:
            remedy = f", and raises an error after step {horizon.steps}{remedy}"
        lines.append(f"{horizon.words} is {horizon.steps} steps long, but with this plan it is stepped {steps} times, {how}{remedy}")
    return lines


def warn_about_horizons(configs: Iterable[LRSchedulerConfig], plan: Plan) -> None:
    """Say each of them."""
    for line in horizon_warnings(configs, plan):
        rank_zero_warn(line)


def _steps(config: LRSchedulerConfig, plan: Plan) -> int | None:
    """How often a scheduler is stepped; None if that is not known before the end."""
    if config.interval == "epoch":
        return plan.epochs // config.frequency if plan.epochs is not None and plan.max_updates is None else None
    if plan.epochs is None and plan.max_updates is None:
        return None
    if config.frequency == 1:
        return plan.total_updates()
    # Lightning counts the batches of the epoch, and asks only where an update ends.
    steps = batches = 0
    for update in plan:
        batches = update.accumulate_grad_batches + (batches if update.start.updates_in_epoch else 0)
        steps += batches % config.frequency == 0
    return steps

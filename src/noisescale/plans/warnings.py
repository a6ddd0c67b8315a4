"""Warnings about a plan before training: sizes above N/10, caps, cuts that leave the learning rate high, small last windows, a rule that
does not fit the optimizer, choices without an effect. Each warning is one line for users to read."""

from __future__ import annotations

import math

from noisescale.plans.duality import Dual, Matched
from noisescale.plans.extremes import Caps, cap_of, carries_by_batch
from noisescale.plans.noise import dual_rule_of, noise_depends_on_batch, noise_rule_is_measured, noise_rule_of
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, Full, MultiStep
from noisescale.plans.summary import PlanSummary, noise_formula
from noisescale.plans.survey import Progress, survey
from noisescale.schedules import Constant, WarmedUp, warmup_and_rest

__all__ = ["cap_warnings", "idle_warnings", "plan_warnings", "rule_warnings"]

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def plan_warnings(summary: PlanSummary, optimizer: str = "SGD", weight_decay: float = 0.0) -> list[str]:
    """All warnings about a plan.

    Args:
        summary: the summary of the plan.
        optimizer: the optimizer's class name.
        weight_decay: the optimizer's weight decay.
    """
    return [
        *idle_warnings(summary.plan),
        *_size_warnings(summary),
        *_cut_warnings(summary),
        *rule_warnings(summary.plan, optimizer, weight_decay),
        *_last_window_warnings(summary),
    ]


def idle_warnings(plan: Plan) -> list[str]:
    """Lines about a strategy that has no schedule to carry, and about one that grows the batch beyond N, to which it is clipped."""
    strategy, n = plan.strategy, plan.num_examples
    if isinstance(strategy, Matched) and not plan.monitors:
        # the times have no period, which a wave could have too
        times = ((plan.epochs or 100) * (i * _GOLDEN % 1.0) for i in range(1000))
        if len({strategy.level(t, warmup_and_rest(plan.schedule, t)[1]) for t in times}) == 1:
            name = type(strategy).__name__
            return [f"{name} keeps B = {strategy.size} and the learning rate, because {_constant(plan)}"]
    if isinstance(strategy, MultiStep) and strategy.max_size is None:
        for number, milestone in enumerate(strategy.milestones, start=1):
            size = round(strategy.size * strategy.factor**number)
            if size > n and (plan.epochs is None or milestone < plan.epochs):
                where = f"from epoch {milestone:g} on"
                return [f"{where} B would be {size} and is clipped to N = {n}, the full batch; max_size sets a lower cap"]
    return []


def _constant(plan: Plan) -> str:
    """Why a strategy finds nothing to carry: there is no schedule, or it does not change as long as the training lasts."""
    schedule = plan.schedule.schedule if isinstance(plan.schedule, WarmedUp) else plan.schedule
    if isinstance(schedule, Constant):
        return "there is no schedule whose noise it could carry"
    return f"the schedule is constant up to epoch {plan.epochs or 100}"


def _size_warnings(summary: PlanSummary) -> list[str]:
    plan, notes = summary.plan, []
    n = plan.num_examples
    above = summary.sizes.above_tenth
    if above is not None and n >= 10:
        notes.append(
            f"B = {above.effective_batch_size} at epoch {above.epoch:.4g} is above N/10 = {n // 10}, where Smith et al. "
            "(1711.00489) stop growing the batch"
        )
    notes += _cap_lines(plan, summary.caps)
    largest = summary.sizes.largest
    if summary.momentum > 0 and summary.memory(largest) > 1:
        notes.append(
            f"momentum {summary.momentum:g} at B = {largest} takes B/(N(1-m)) = {summary.memory(largest):.1f} epochs to fill from 0, "
            "and remembers the earlier noise for as long after a cut"
        )
    return notes


def cap_warnings(plan: Plan, progress: Progress | None = None) -> list[str]:
    """Lines that name the epoch from which B cannot follow the noise, so that the learning rate has to.

    Args:
        plan: the plan; there are lines only for a strategy that carries noise by the batch.
        progress: is called with the share of the plan that has been read, 0 to 1.
    """
    caps = Caps(plan) if carries_by_batch(plan.strategy) else None
    if caps is not None and caps.has_room:
        survey(plan, [caps], progress)
    return _cap_lines(plan, caps)


def _cap_lines(plan: Plan, caps: Caps | None) -> list[str]:
    strategy = plan.strategy
    if caps is None:
        return []
    assert carries_by_batch(strategy)
    step = strategy.micro_batch_size or 1
    cap, name = cap_of(strategy, plan.num_examples)
    if not caps.has_room:
        limit = f"N/10 = {plan.num_examples // 10}" if name == "N/10" else f"{name} = {cap}"
        return [f"B0 = {strategy.size} is not below its cap {limit}: the learning rate carries all of the noise, and no updates are saved"]
    at_cap, at_floor, lines = caps.at_cap, caps.at_floor, []
    if at_cap is not None:
        lines.append(f"B reaches its cap {name} = {cap} at epoch {at_cap.epoch:.4g}: for less noise, the learning rate falls instead")
    if at_floor is not None:
        lines.append(f"B is down to {step} at epoch {at_floor.epoch:.4g}: for more noise, the learning rate rises instead")
    return lines


def _cut_warnings(summary: PlanSummary) -> list[str]:
    """The first cut of SGD's noise that the batch carries, so that the learning rate stays above the counterpart's."""
    if summary.cuts is None or summary.cuts.first is None or summary.other is None:
        return []
    update = summary.cuts.first
    after = summary.other.choice_at(update.epoch).lr_factor
    k, edge = update.lr_factor / after, 2.0 * (1.0 + summary.momentum)
    return [
        f"after the cut at epoch {update.epoch:.4g} lr is {summary.lr * update.lr_factor:.4g}, in the counterpart "
        f"{summary.lr * after:.4g}: on a quadratic of curvature h, the ratio of their risks is ({edge:g} - lr h/{k:.3g}) to "
        f"({edge:g} - lr h), see notebooks/noisy_quadratic.ipynb"
    ]


def rule_warnings(plan: Plan, optimizer: str, weight_decay: float) -> list[str]:
    """Lines about a rule that does not fit the optimizer, which is given by its class name, and about what happens to weight decay."""
    strategy, own, measured = plan.strategy, noise_rule_of(optimizer), dual_rule_of(optimizer)
    notes: list[str] = []
    if not noise_depends_on_batch(optimizer):
        return _without_a_dual(strategy, optimizer)
    if not carries_by_batch(strategy):
        return notes
    kept = noise_formula(strategy.rule or "", strategy.match)
    if own != measured:
        whole = not (isinstance(strategy, Dual) and strategy.growth < 1)  # a share of it is what Seesaw asks for
        if strategy.rule == own and whole:
            closer = f"{measured} follows a decaying rate more closely in training loss and accuracy (results/dual_adam)"
            notes.append(f"batch.rule={own} keeps {kept}, the noise of {optimizer} where its gradient is mostly noise; {closer}")
    elif strategy.rule != own:
        notes.append(f"batch.rule={strategy.rule} keeps {kept}, which is not the noise of {optimizer}, whose rule is {own}")
    elif not noise_rule_is_measured(optimizer):
        notes.append(f"batch.rule={strategy.rule} is assumed for {optimizer}, whose noise was not measured")
    if strategy.rule == "adaptive" and weight_decay > 0:
        notes.append(f"weight_decay={weight_decay:g} acts once per update, times the learning rate: fewer updates decay less per epoch")
    return notes


def _without_a_dual(strategy: BatchStrategy, optimizer: str) -> list[str]:
    """Lines about a batch that is meant to change the noise, or a learning rate that is meant to keep it, where neither does."""
    notes = []
    varies = not isinstance(strategy, (Fixed, Full)) and not (isinstance(strategy, Dual) and strategy.growth == 0)
    reason = f"{optimizer} divides by the root of the sum of all squared gradients, so that at equal examples its noise hardly depends on B"
    if varies:
        notes.append(f"{reason}: it has no dual by its batch; let the learning rate carry the noise (batch=small)")
    if strategy.lr_rule != "none":
        notes.append(f"{reason}: batch.lr_rule={strategy.lr_rule} would change it; batch.lr_rule=none keeps it")
    return notes


def _last_window_warnings(summary: PlanSummary) -> list[str]:
    """The last window of a pass that has the most noise, if that is at least twice the noise of a full window."""
    worst, spike = summary.sizes.worst, summary.sizes.spike
    if summary.plan.strategy.match_last or worst is None or spike < 2:
        return []
    return [
        f"the window that ends epoch {math.ceil(worst.epoch)} has {worst.effective_batch_size} of {worst.planned_batch_size} examples, "
        f"{spike:.3g}x the noise; batch.match_last=true lowers its learning rate, batch.last=carry fills it up"
    ]

"""What a plan comes to: its phases, its totals, and what to be warned of. Numbers and lines of text, standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from noisescale.files import write_atomically
from noisescale.plans.duality import CyclicBatch, Dual, Matched, counterpart
from noisescale.plans.noise import NOISE_RULES, batch_noise, noise_rule_of, sgd_noise_scale
from noisescale.plans.phases import Phase, phases_of
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import Fixed

__all__ = ["Outlook", "clipped", "look_ahead", "misruled", "write_plan"]

_CUT = 0.9
"""A fall of the rate's or the batch's noise below this share, from one full update to the next, is a cut."""


@dataclass(frozen=True)
class Outlook:
    """A plan, looked at.

    Args:
        plan, lr, momentum: what is planned, with the optimizer's rate and momentum (0: none).
        rule, match: what the noise is that the counterpart shares, see `noise.batch_noise`.
        updates: all of them.
        phases: in order.
        other: the counterpart: the same noise carried the other way; None where there is none.
        other_updates: how many it takes.
        notes: lines for people.
    """

    plan: Plan
    lr: float
    momentum: float
    rule: str
    match: str
    updates: Sequence[Update]
    phases: Sequence[Phase]
    other: Plan | None
    other_updates: int
    notes: Sequence[str]

    def rate(self, update: Update) -> float:
        """The optimizer's rate in `update`."""
        return self.lr * update.lr_factor

    def noise(self, update: Update) -> float:
        """g of `update`."""
        return self.plan.noise(update, self.lr)

    def kept(self, rate: float, size: int) -> float:
        """The noise that the counterpart shares: lr n(B)^p; g for SGD and match=exact."""
        return rate * float(batch_noise(self.match, self.plan.num_examples, size) ** NOISE_RULES[self.rule])

    @property
    def keeps_g(self) -> bool:
        """Whether that is g."""
        return self.rule == "sgd" and self.match == "exact"

    def kept_in_words(self) -> str:
        """Its formula."""
        return _formula(self.rule, self.match)

    def memory(self, size: int) -> float:
        """B / (N (1 - m)): epochs that the momentum buffer takes to fill, or to forget, at B = size (Smith et al. 1711.00489, 5.2)."""
        return size / (self.plan.num_examples * (1.0 - self.momentum))

    def comparison(self) -> str:
        """One line: the updates against those of the counterpart."""
        n = len(self.updates)
        total = f"{_grouped(n)} update{'s' if n > 1 else ''}"
        if self.other is None or self.plan.max_updates is not None or self.plan.max_updates_per_epoch is not None:
            return total  # cut short, either would be another training
        noise = "noise" if self.keeps_g else self.kept_in_words()
        if isinstance(self.other.strategy, Dual):
            return f"{total}; with the same {noise} in the batch (batch=dual) {_grouped(self.other_updates)}{_times(n, self.other_updates)}"
        assert isinstance(self.other.strategy, Fixed)
        size = self.other.strategy.size
        if n == self.other_updates:
            return f"{total}, as many as at B = {size} with the same {noise}"
        return f"{total} instead of {_grouped(self.other_updates)} at B = {size} with the same {noise}{_times(self.other_updates, n)}"


def look_ahead(plan: Plan, lr: float, momentum: float = 0.0, optimizer: str = "SGD", weight_decay: float = 0.0) -> Outlook:
    """Go through a plan that has an end.

    Args:
        plan: what is planned.
        lr: the optimizer's rate, lr0.
        momentum: m, in [0, 1); 0 for optimizers without.
        optimizer: its class name, which decides what noise is.
        weight_decay: its weight decay.
    """
    updates, strategy = list(plan), plan.strategy
    rule, match = noise_rule_of(optimizer), "exact"
    if isinstance(strategy, Matched):
        assert strategy.rule is not None
        rule, match = strategy.rule, strategy.match
    other = counterpart(plan, rule)
    stop = plan.after(updates[-1]).position / plan.num_examples
    end = stop if plan.epochs is None else min(stop, plan.epochs)
    outlook = Outlook(plan, lr, momentum, rule, match, updates, phases_of(updates, end), other, other.total_updates() if other else 0, ())
    notes = [*_size_notes(outlook), *_cut_notes(outlook), *misruled(plan, optimizer, weight_decay), *_last_notes(outlook)]
    return replace(outlook, notes=tuple(notes))


def write_plan(outlook: Outlook, path: Path) -> None:
    """plan.csv, atomically: a row per update with the columns of steps.csv but for the loss."""
    plan, lr, n = outlook.plan, outlook.lr, outlook.plan.num_examples
    micro: dict[int, int] = {}
    lines = ["step,epoch,examples_seen,lr,effective_batch_size,micro_batch_size,accumulate_grad_batches,g"]
    for update in outlook.updates:
        size, start, rate = update.effective_batch_size, update.start, lr * update.lr_factor
        if size not in micro:
            micro[size] = plan.micro_batch_size(update)
        noise = sgd_noise_scale(rate, n, size)
        lines.append(
            f"{start.step},{update.epoch!r},{start.examples_seen},{rate!r},{size},{micro[size]},{update.accumulate_grad_batches},{noise!r}"
        )
    write_atomically(path, "\n".join(lines) + "\n")


def _size_notes(outlook: Outlook) -> list[str]:
    plan, notes = outlook.plan, []
    n = plan.num_examples
    tenth = n // 10
    above = next((u for u in outlook.updates if u.effective_batch_size > tenth), None)
    if above is not None and n >= 10:
        notes.append(
            f"B = {above.effective_batch_size} at epoch {above.epoch:.4g} is above N/10 = {tenth}, where Smith et al. "
            "(1711.00489) stop growing it"
        )
    notes += clipped(plan, outlook.updates)
    largest = max(u.planned_batch_size for u in outlook.updates)
    if outlook.momentum > 0 and outlook.memory(largest) > 1:
        notes.append(
            f"momentum {outlook.momentum:g} at B = {largest} fills in B/(N(1-m)) = {outlook.memory(largest):.1f} epochs: "
            "it starts from 0, and remembers the noise of before a cut as long"
        )
    return notes


def clipped(plan: Plan, updates: Iterable[Update]) -> list[str]:
    """Where B cannot follow the noise, so that the rate has to: lines that name the epoch.

    Args:
        plan: whose strategy may carry noise.
        updates: its updates, gone through once.
    """
    strategy, n = plan.strategy, plan.num_examples
    if not isinstance(strategy, (Dual, CyclicBatch)) or (isinstance(strategy, Dual) and strategy.growth == 0):
        return []
    step = strategy.micro_batch_size or 1
    cap, name = (n - 1, "N - 1") if strategy.match == "exact" else (n, "N")
    if isinstance(strategy, Dual) and strategy.cap(n) < n:
        cap, name = strategy.cap(n), "N/10" if strategy.max_size is None else "batch.max_size"
    if cap // step * step <= strategy.size:
        limit = f"{name} = {cap}" if name != "N/10" else f"N/10 = {n // 10}"
        return [f"B0 = {strategy.size} is not below its cap {limit}: the rate carries all of the noise, and no update is saved"]
    at_cap = at_floor = None
    for update in updates:
        if at_cap is None and update.planned_batch_size >= cap // step * step:
            at_cap = update
        if at_floor is None and update.planned_batch_size <= step < strategy.size:
            at_floor = update
    notes = []
    if at_cap is not None:
        notes.append(f"B reaches its cap {name} = {cap} at epoch {at_cap.epoch:.4g}: where less noise is wanted, the rate falls")
    if at_floor is not None:
        notes.append(f"B is down to {step} at epoch {at_floor.epoch:.4g}: where more noise is wanted, the rate rises")
    return notes


def _cut_notes(outlook: Outlook) -> list[str]:
    """The first cut of SGD's noise that the batch takes on, at a rate above the counterpart's."""
    if outlook.rule != "sgd" or outlook.other is None or isinstance(outlook.other.strategy, Dual):
        return []
    full = [u for u in outlook.updates if u.effective_batch_size == u.planned_batch_size]
    for last, update in pairwise(full):
        if update.planned_batch_size * _CUT <= last.planned_batch_size:
            continue
        before, after = (outlook.other.choice_at(u.epoch).lr_factor for u in (last, update))
        if 0 < after < _CUT * before and _jumps(outlook.other.schedule, last.epoch, update.epoch):
            k, edge = update.lr_factor / after, 2.0 * (1.0 + outlook.momentum)
            return [
                f"at the cut of epoch {update.epoch:.4g} lr is {outlook.rate(update):.4g}, the counterpart's {outlook.lr * after:.4g}: "
                f"on a quadratic of curvature h their risks are as ({edge:g} - lr h/{k:.3g}) to ({edge:g} - lr h), "
                "see notebooks/noisy_quadratic.ipynb"
            ]
    return []


def _jumps(level: Callable[[float], float], start: float, end: float) -> bool:
    """Whether `level` falls in one place between two epochs, not gradually."""
    points = [level(start + (end - start) * i / 8) for i in range(9)]
    return max(abs(a - b) for a, b in pairwise(points)) > 0.8 * abs(points[0] - points[-1])


def misruled(plan: Plan, optimizer: str, weight_decay: float) -> list[str]:
    """Lines where the noise that a strategy carries is not that of the optimizer, given by its class name, or of its weight decay."""
    strategy, rule = plan.strategy, noise_rule_of(optimizer)
    notes: list[str] = []
    grows = isinstance(strategy, CyclicBatch) or (isinstance(strategy, Dual) and strategy.growth > 0)
    if not isinstance(strategy, Matched) or not grows:
        return notes
    if strategy.rule != rule:
        kept = _formula(strategy.rule or "", strategy.match)
        notes.append(f"batch.rule={strategy.rule} keeps {kept}, which is not the noise of {optimizer}: its rule is {rule}")
    if strategy.rule == "adaptive" and weight_decay > 0:
        notes.append(f"weight_decay={weight_decay:g} acts once per update, with the rate: fewer updates decay less per epoch")
    return notes


def _last_notes(outlook: Outlook) -> list[str]:
    """The smallest last window of a pass, by its noise."""
    plan, n = outlook.plan, outlook.plan.num_examples
    small = [u for u in outlook.updates if u.effective_batch_size < u.planned_batch_size < n]
    if plan.strategy.match_last or not small:
        return []

    def spike(update: Update) -> float:
        return sgd_noise_scale(1.0, n, update.effective_batch_size) / sgd_noise_scale(1.0, n, update.planned_batch_size)

    worst = max(small, key=spike)
    if spike(worst) < 2:
        return []
    return [
        f"the window that ends epoch {math.ceil(worst.epoch)} has {worst.effective_batch_size} of {worst.planned_batch_size} examples, "
        f"{spike(worst):.3g}x the noise; batch.match_last=true lowers its rate, batch.last=carry makes it whole"
    ]


def _formula(rule: str, match: str) -> str:
    if match == "exact":
        return "lr (N/B - 1)" if rule == "sgd" else "lr sqrt(N/B - 1)"
    return "lr N/B" if rule == "sgd" else "lr sqrt(N/B)"


def _times(of: int, instead: int) -> str:
    """How many times fewer or more updates `instead` is than `of`."""
    if of == instead:
        return ""
    return f", {of / instead:.1f}x fewer" if instead < of else f", {instead / of:.1f}x more"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")

"""What a plan comes to: its phases, its totals, and what to be warned of. Numbers and lines of text, standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from noisescale.batching import Fixed
from noisescale.duality import CyclicBatch, Dual, Matched, counterpart
from noisescale.noise import noise_rule_of, sgd_noise_scale
from noisescale.planning import Plan, Update
from noisescale.rows import write_atomically

__all__ = ["Outlook", "Phase", "look_ahead", "write_plan"]

_PHASES = 16
"""A plan with at most so many constant stretches is shown by them, any other by `_STRETCHES` stretches of equal length."""
_STRETCHES = 10
_CUT = 0.9
"""A fall of the rate's or the batch's noise below this share, from one full update to the next, is a cut."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a plan: its first and its last full update, and how many updates it has."""

    first: Update
    last: Update
    end: float
    updates: int


@dataclass(frozen=True)
class Outlook:
    """A plan, looked at.

    Args:
        plan, lr, momentum: what is planned, with the optimizer's rate and momentum (0: none).
        updates: all of them.
        phases: in order.
        other: the counterpart: the same noise carried the other way; None where there is none.
        other_updates: how many it takes.
        notes: lines for people.
    """

    plan: Plan
    lr: float
    momentum: float
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

    def memory(self, update: Update) -> float:
        """B / (N (1 - m)): epochs that the momentum buffer takes to fill, or to forget (Smith et al. 1711.00489, section 5.2)."""
        return update.effective_batch_size / (self.plan.num_examples * (1.0 - self.momentum))

    def comparison(self) -> str:
        """One line: the updates against those of the counterpart."""
        n = len(self.updates)
        if self.other is None:
            return f"{_grouped(n)} updates"
        strategy = self.other.strategy
        if isinstance(strategy, Dual):
            ratio = n / self.other_updates
            return (
                f"{_grouped(n)} updates; with the same noise in the batch (batch=dual) {_grouped(self.other_updates)}, {ratio:.1f}x fewer"
            )
        assert isinstance(strategy, Fixed)
        ratio = self.other_updates / n
        more = f"{ratio:.1f}x fewer" if ratio >= 1 else f"{1 / ratio:.1f}x more"
        return f"{_grouped(n)} updates instead of {_grouped(self.other_updates)} at B = {strategy.size} with the same noise, {more}"


def look_ahead(plan: Plan, lr: float, momentum: float = 0.0, optimizer: str = "SGD", weight_decay: float = 0.0) -> Outlook:
    """Go through a plan that has an end.

    Args:
        plan: what is planned.
        lr: the optimizer's rate, lr0.
        momentum: m, in [0, 1); 0 for optimizers without.
        optimizer: its class name, which decides what noise is.
        weight_decay: its weight decay.
    """
    updates = list(plan)
    rule = noise_rule_of(optimizer)
    other = counterpart(plan, rule)
    outlook = Outlook(plan, lr, momentum, updates, _phases(updates), other, other.total_updates() if other else 0, ())
    notes = [*_size_notes(outlook), *_cut_notes(outlook), *_rule_notes(plan, rule, optimizer, weight_decay), *_last_notes(outlook)]
    return Outlook(plan, lr, momentum, updates, outlook.phases, other, outlook.other_updates, tuple(notes))


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


def _phases(updates: Sequence[Update]) -> list[Phase]:
    starts = [0] + [i for i, (a, b) in enumerate(pairwise(updates), 1) if _changes(a, b)]
    if len(starts) > _PHASES:
        span = updates[-1].epoch / _STRETCHES
        starts = [
            next(group)[0] for _, group in groupby(enumerate(updates), key=lambda pair: min(int(pair[1].epoch / span), _STRETCHES - 1))
        ]
    phases = []
    for start, stop in pairwise([*starts, len(updates)]):
        part = updates[start:stop]
        full = [u for u in part if u.effective_batch_size == u.planned_batch_size] or part
        end = updates[stop].epoch if stop < len(updates) else math.ceil(updates[-1].epoch)
        phases.append(Phase(full[0], full[-1], end, len(part)))
    return phases


def _changes(a: Update, b: Update) -> bool:
    """Whether two neighbours differ in B or rate, the smaller windows at the ends of passes aside."""
    if a.planned_batch_size != b.planned_batch_size:
        return True
    whole = a.effective_batch_size == a.planned_batch_size and b.effective_batch_size == b.planned_batch_size
    return whole and a.lr_factor != b.lr_factor


def _size_notes(outlook: Outlook) -> list[str]:
    plan, notes = outlook.plan, []
    n, strategy = plan.num_examples, plan.strategy
    tenth = n // 10
    above = next((u for u in outlook.updates if u.effective_batch_size > tenth), None)
    if above is not None and n >= 10:
        notes.append(
            f"B = {above.effective_batch_size} at epoch {above.epoch:.4g} is above N/10 = {tenth}: the largest batch that Smith et al. "
            "(1711.00489) found to keep the accuracy"
        )
    if isinstance(strategy, Dual) and strategy.growth > 0:
        cap = strategy.cap(n)
        if cap == strategy.size:
            notes.append(f"batch.max_size={cap} is B0 itself: the rate carries all of the noise, and no update is saved; raise it")
        else:
            notes += _clipped(outlook, strategy, cap)
    if isinstance(strategy, CyclicBatch):
        notes += _clipped(outlook, strategy, n - 1)
    slow = max(outlook.updates, key=lambda u: u.effective_batch_size)
    if outlook.momentum > 0 and outlook.memory(slow) > 1:
        notes.append(
            f"momentum {outlook.momentum:g} at B = {slow.effective_batch_size} fills in B/(N(1-m)) = {outlook.memory(slow):.1f} epochs: "
            "it starts from 0, and remembers the noise of before a cut as long"
        )
    return notes


def _clipped(outlook: Outlook, strategy: Matched, cap: int) -> list[str]:
    """Where B cannot follow the noise, so that the rate has to."""
    notes = []
    at_cap = next((u for u in outlook.updates if u.planned_batch_size >= cap), None)
    if at_cap is not None:
        name = (
            "batch.max_size"
            if isinstance(strategy, Dual) and strategy.max_size is not None
            else "N/10"
            if cap < outlook.plan.num_examples - 1
            else "N - 1"
        )
        notes.append(f"B reaches its cap {name} = {cap} at epoch {at_cap.epoch:.4g}: where less noise is wanted, the rate falls")
    at_floor = next((u for u in outlook.updates if u.planned_batch_size == 1), None)
    if at_floor is not None and strategy.size > 1:
        notes.append(f"B = 1 at epoch {at_floor.epoch:.4g}: where more noise is wanted, the rate rises")
    return notes


def _cut_notes(outlook: Outlook) -> list[str]:
    """The first jump of the noise that the batch takes on, at a rate above the counterpart's."""
    if outlook.other is None or isinstance(outlook.other.strategy, Dual):
        return []
    full = [u for u in outlook.updates if u.effective_batch_size == u.planned_batch_size]
    for last, update in pairwise(full):
        if update.planned_batch_size * _CUT > last.planned_batch_size and last.lr_factor > 0:
            fall, rate = outlook.noise(update) / outlook.noise(last), update.lr_factor / last.lr_factor
            if fall < _CUT and rate * _CUT > fall and _jumps(outlook.other.schedule, last.epoch, update.epoch):
                start, k, edge = outlook.rate(update), rate / fall, 2.0 * (1.0 + outlook.momentum)
                return [
                    f"at the cut of epoch {update.epoch:.4g} the rate is {start:.4g}, the batch of before would have {start / k:.4g}: "
                    f"equal g is equal training only while lr h << 1, h the curvature; on a quadratic the risk is "
                    f"({edge:g} - lr h/{k:.3g})/({edge:g} - lr h) times as high"
                ]
    return []


def _jumps(level: Callable[[float], float], start: float, end: float) -> bool:
    """Whether `level` falls in one place between two epochs, not gradually."""
    points = [level(start + (end - start) * i / 8) for i in range(9)]
    return max(abs(a - b) for a, b in pairwise(points)) > 0.8 * abs(points[0] - points[-1])


def _rule_notes(plan: Plan, rule: str, optimizer: str, weight_decay: float) -> list[str]:
    strategy = plan.strategy
    notes: list[str] = []
    grows = isinstance(strategy, CyclicBatch) or (isinstance(strategy, Dual) and strategy.growth > 0)
    if not isinstance(strategy, Matched) or not grows:
        return notes
    if strategy.rule != rule:
        kept = "lr/sqrt(B)" if strategy.rule == "adaptive" else "lr/B"
        notes.append(f"batch.rule={strategy.rule} keeps {kept}, the noise of other optimizers than {optimizer}, whose rule is {rule}")
    if strategy.rule == "adaptive" and weight_decay > 0:
        notes.append(f"weight_decay={weight_decay:g} acts once per update, with the rate: fewer updates decay less per epoch")
    return notes


def _last_notes(outlook: Outlook) -> list[str]:
    worst, at = 1.0, None
    for update in outlook.updates:
        if update.effective_batch_size < update.planned_batch_size and not outlook.plan.strategy.match_last:
            spike = update.planned_batch_size / update.effective_batch_size
            if spike > worst:
                worst, at = spike, update
    if at is None or worst < 2:
        return []
    return [
        f"the window that ends epoch {math.ceil(at.epoch)} has {at.effective_batch_size} of {at.planned_batch_size} examples, "
        f"{worst:.3g}x the noise; batch.match_last=true lowers its rate, batch.last=carry makes it whole"
    ]


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")

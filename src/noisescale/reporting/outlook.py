"""What a plan comes to: its phases, its totals, and what to be warned of. Numbers and lines of text, standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

from noisescale.batching import Fixed
from noisescale.duality import CyclicBatch, Dual, Matched, counterpart
from noisescale.noise import NOISE_RULES, batch_noise, noise_rule_of, sgd_noise_scale
from noisescale.planning import Plan, Update
from noisescale.rows import write_atomically

__all__ = ["Outlook", "Phase", "clipped", "look_ahead", "write_plan"]

_STRETCHES = 10
"""Where rate or batch change all the time, the whole training would be shown by so many stretches of equal length."""
_LASTING = 1 / 25
"""A share of the training in which nothing changes is a phase if it is at least so long."""
_CUT = 0.9
"""A fall of the rate's or the batch's noise below this share, from one full update to the next, is a cut."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a plan, in epochs: its first and its last full update, and how many updates it has."""

    first: Update
    last: Update
    start: float
    end: float
    updates: int


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

    def kept_in_words(self) -> str:
        """Its formula."""
        variance = "N/B - 1" if self.match == "exact" else "N/B"
        return f"lr ({variance})" if self.rule == "sgd" else f"lr sqrt({variance})"

    def memory(self, update: Update) -> float:
        """B / (N (1 - m)): epochs that the momentum buffer takes to fill, or to forget (Smith et al. 1711.00489, section 5.2)."""
        return update.effective_batch_size / (self.plan.num_examples * (1.0 - self.momentum))

    def comparison(self) -> str:
        """One line: the updates against those of the counterpart."""
        n = len(self.updates)
        total = f"{_grouped(n)} update{'s' if n > 1 else ''}"
        if self.other is None or self.plan.max_updates is not None or self.plan.max_updates_per_epoch is not None:
            return total  # cut short, either would be another training
        if isinstance(self.other.strategy, Dual):
            return f"{total}; with the same noise in the batch (batch=dual) {_grouped(self.other_updates)}{_times(n, self.other_updates)}"
        assert isinstance(self.other.strategy, Fixed)
        size = self.other.strategy.size
        if n == self.other_updates:
            return f"{total}, as many as at B = {size} with the same noise"
        return f"{total} instead of {_grouped(self.other_updates)} at B = {size} with the same noise{_times(self.other_updates, n)}"


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
    outlook = Outlook(plan, lr, momentum, rule, match, updates, _phases(updates, end), other, other.total_updates() if other else 0, ())
    notes = [*_size_notes(outlook), *_cut_notes(outlook), *_rule_notes(plan, optimizer, weight_decay), *_last_notes(outlook)]
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


def _phases(updates: Sequence[Update], total: float) -> list[Phase]:
    runs = list(pairwise([*_changes(updates), len(updates)]))

    def epoch_at(index: int) -> float:
        return updates[index].epoch if index < len(updates) else total

    starts = []
    for lasting, group in groupby(runs, key=lambda run: epoch_at(run[1]) - epoch_at(run[0]) >= _LASTING * total):
        together = list(group)
        if lasting:
            starts += [start for start, _ in together]
        else:
            starts += _stretches(updates, together[0][0], together[-1][1], epoch_at(together[-1][1]), total)
    phases = []
    for start, stop in pairwise([*starts, len(updates)]):
        part = updates[start:stop]
        full = [u for u in part if u.effective_batch_size == u.planned_batch_size] or part
        phases.append(Phase(full[0], full[-1], epoch_at(start), epoch_at(stop), len(part)))
    return phases


def _stretches(updates: Sequence[Update], start: int, stop: int, end: float, total: float) -> list[int]:
    """The first updates of stretches of equal length between two updates."""
    first = updates[start].epoch
    count = max(1, round(_STRETCHES * (end - first) / total))
    span = (end - first) / count
    parts = groupby(range(start, stop), key=lambda i: min(int((updates[i].epoch - first) / span), count - 1))
    return [next(group) for _, group in parts]


def _changes(updates: Sequence[Update]) -> list[int]:
    """The updates whose planned B or rate is new, the first included; smaller windows at the ends of passes count with those before."""
    found, last = [0], updates[0]
    for i, update in enumerate(updates):
        whole = update.effective_batch_size == update.planned_batch_size
        if update.planned_batch_size != last.planned_batch_size or (whole and update.lr_factor != last.lr_factor):
            if i:
                found.append(i)
            last = update
    return found


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
    slow = max(outlook.updates, key=lambda u: u.effective_batch_size)
    if outlook.momentum > 0 and outlook.memory(slow) > 1:
        notes.append(
            f"momentum {outlook.momentum:g} at B = {slow.effective_batch_size} fills in B/(N(1-m)) = {outlook.memory(slow):.1f} epochs: "
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
    cap, name = n - 1, "N - 1"
    if isinstance(strategy, Dual) and strategy.cap(n) < n:
        cap, name = strategy.cap(n), "N/10" if strategy.max_size is None else "batch.max_size"
    if cap // step * step <= strategy.size:
        return [
            f"{name} = {cap} leaves B at {strategy.size}: the rate carries all of the noise, and no update is saved; raise batch.max_size"
        ]
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
    """The first jump of the noise that the batch takes on, at a rate above the counterpart's."""
    if outlook.other is None or isinstance(outlook.other.strategy, Dual):
        return []
    full = [u for u in outlook.updates if u.effective_batch_size == u.planned_batch_size]
    for last, update in pairwise(full):
        if update.planned_batch_size * _CUT > last.planned_batch_size and last.lr_factor > 0:
            if not outlook.noise(update):
                continue  # a full batch
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


def _rule_notes(plan: Plan, optimizer: str, weight_decay: float) -> list[str]:
    strategy, rule = plan.strategy, noise_rule_of(optimizer)
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


def _times(of: int, instead: int) -> str:
    """How many times fewer or more updates `instead` is than `of`."""
    if of == instead:
        return ""
    return f", {of / instead:.1f}x fewer" if instead < of else f", {instead / of:.1f}x more"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")

"""The summary of a plan: its phases, its totals, and how many updates the same noise takes when it is carried the other way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from noisescale.files import write_atomically
from noisescale.plans.duality import Dual, Matched, counterpart
from noisescale.plans.noise import NOISE_RULES, batch_noise, noise_depends_on_batch, noise_rule_of, sgd_noise_scale
from noisescale.plans.phases import Phase, phases_of
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import Fixed

__all__ = ["Drift", "PlanSummary", "noise_formula", "summarize", "write_plan"]


class Drift(NamedTuple):
    """The sum of lr, which is how far the updates move along a constant gradient; equal noise does not keep it.

    Args:
        whole: over all updates.
        last_quarter: over those in the last quarter of the training, by epochs.
    """

    whole: float
    last_quarter: float


@dataclass(frozen=True)
class PlanSummary:
    """A plan with its updates, its phases and its counterpart.

    Args:
        plan, lr, momentum: the plan, and the optimizer's learning rate and momentum (0: none).
        rule, match: which noise the counterpart shares, see `noise.batch_noise`.
        updates: all updates of the plan.
        phases: its phases, in order.
        other: its counterpart, which carries the same noise the other way; None if there is none.
        other_updates: the number of updates of the counterpart; 0 if there is none.
        drift, other_drift: of the plan and of its counterpart; that of the counterpart is 0 if there is none.
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
    drift: Drift
    other_drift: Drift

    def rate(self, update: Update) -> float:
        """The learning rate of `update`."""
        return self.lr * update.lr_factor

    def noise(self, update: Update) -> float:
        """g of `update`."""
        return self.plan.noise(update, self.lr)

    def matched_noise(self, rate: float, size: int) -> float:
        """lr n(B)^p: the noise that the plan and its counterpart have in common; g for SGD with match=exact, or with replacement."""
        return rate * float(batch_noise(self.match, self.plan.num_examples, size) ** NOISE_RULES[self.rule])

    @property
    def keeps_g(self) -> bool:
        """Whether `matched_noise` is g."""
        return self.rule == "sgd" and self.match == self.plan.match

    def matched_noise_formula(self) -> str:
        """The formula of `matched_noise`."""
        return noise_formula(self.rule, self.match)

    def memory(self, size: int) -> float:
        """B / (N (1 - m)): epochs that the momentum buffer takes to fill, or to forget, at B = size (Smith et al. 1711.00489, 5.2)."""
        return size / (self.plan.num_examples * (1.0 - self.momentum))

    @property
    def _has_comparison(self) -> bool:
        """Whether there is a counterpart of the same length: a plan that is cut short has nothing to be compared with."""
        return self.other is not None and self.plan.max_updates is None and self.plan.max_updates_per_epoch is None

    def comparison(self) -> str:
        """One line that compares the number of updates with that of the counterpart."""
        n = len(self.updates)
        total = f"{_grouped(n)} update{'s' if n > 1 else ''}"
        if not self._has_comparison:
            return total
        assert self.other is not None
        noise = "noise" if self.keeps_g else self.matched_noise_formula()
        if isinstance(self.other.strategy, Dual):
            fewer = f"{_grouped(self.other_updates)} with the same {noise} in the batch (batch=dual)"
            return f"{total}; {fewer}{_times(n, self.other_updates)}"
        assert isinstance(self.other.strategy, Fixed)
        size = self.other.strategy.size
        if n == self.other_updates:
            return f"{total}, as many as at B = {size} with the same {noise}"
        return f"{total} instead of {_grouped(self.other_updates)} at B = {size} with the same {noise}{_times(self.other_updates, n)}"

    def drift_in_words(self) -> str:
        """One line with the drift of the plan and of its counterpart."""
        here = f"sum of lr: {self.drift.whole:.4g} (last quarter {self.drift.last_quarter:.4g})"
        if not self._has_comparison:
            return here
        assert self.other is not None
        other = f"at B = {self.other.strategy.size}" if isinstance(self.other.strategy, Fixed) else "batch=dual"
        return f"{here}; {other}: {self.other_drift.whole:.4g} ({self.other_drift.last_quarter:.4g})"


def summarize(plan: Plan, lr: float, momentum: float = 0.0, optimizer: str = "SGD") -> PlanSummary:
    """The summary of a plan that has an end.

    Args:
        plan: the plan.
        lr: the optimizer's learning rate, lr0.
        momentum: m, in [0, 1); 0 for optimizers without momentum.
        optimizer: its class name, which decides the rule of the noise.
    """
    updates, strategy = list(plan), plan.strategy
    rule, match = noise_rule_of(optimizer), plan.match
    if isinstance(strategy, Matched):
        assert strategy.rule is not None
        rule, match = strategy.rule, strategy.match
    other = counterpart(plan, rule) if noise_depends_on_batch(optimizer) else None
    others = list(other) if other else []
    stop = plan.after(updates[-1]).position / plan.num_examples
    end = stop if plan.epochs is None else min(stop, plan.epochs)
    return PlanSummary(
        plan,
        lr,
        momentum,
        rule,
        match,
        updates,
        phases_of(updates, end),
        other,
        len(others),
        _drift(updates, lr, end),
        _drift(others, lr, end),
    )


def _drift(updates: Sequence[Update], lr: float, end: float) -> Drift:
    late = (update.lr_factor for update in updates if update.epoch >= 0.75 * end)
    return Drift(lr * math.fsum(update.lr_factor for update in updates), lr * math.fsum(late))


def write_plan(summary: PlanSummary, path: Path) -> None:
    """Write plan.csv atomically: a row per update, with the columns of steps.csv except the loss."""
    plan, lr = summary.plan, summary.lr
    micro: dict[int, int] = {}
    lines = ["step,epoch,examples_seen,lr,effective_batch_size,micro_batch_size,accumulate_grad_batches,g"]
    for update in summary.updates:
        size, start, rate = update.effective_batch_size, update.start, lr * update.lr_factor
        if size not in micro:
            micro[size] = plan.micro_batch_size(update)
        noise = sgd_noise_scale(rate, plan.num_examples, size, plan.replacement)
        lines.append(
            f"{start.step},{update.epoch!r},{start.examples_seen},{rate!r},{size},{micro[size]},{update.accumulate_grad_batches},{noise!r}"
        )
    write_atomically(path, "\n".join(lines) + "\n")


def noise_formula(rule: str, match: str) -> str:
    """The formula of the noise that a strategy matches, see `noise.batch_noise`: `lr (N/B - 1)` for sgd and exact."""
    if match == "exact":
        return "lr (N/B - 1)" if rule == "sgd" else "lr sqrt(N/B - 1)"
    return "lr N/B" if rule == "sgd" else "lr sqrt(N/B)"


def _times(before: int, after: int) -> str:
    """`, 1.8x fewer` or `, 1.8x more`: how `after` updates compare with `before`; empty if they are as many."""
    if before == after:
        return ""
    return f", {before / after:.1f}x fewer" if after < before else f", {after / before:.1f}x more"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")

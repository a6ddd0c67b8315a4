"""What a plan comes to: its phases, its totals, and how many updates the same noise takes when it is carried the other way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisescale.files import write_atomically
from noisescale.plans.duality import Dual, Matched, counterpart
from noisescale.plans.noise import NOISE_RULES, batch_noise, noise_rule_of, sgd_noise_scale
from noisescale.plans.phases import Phase, phases_of
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import Fixed

__all__ = ["PlanSummary", "noise_formula", "summarize", "write_plan"]


@dataclass(frozen=True)
class PlanSummary:
    """A plan, looked at.

    Args:
        plan, lr, momentum: what is planned, with the optimizer's rate and momentum (0: none).
        rule, match: what the noise is that the counterpart shares, see `noise.batch_noise`.
        updates: all of them.
        phases: in order.
        other: the counterpart: the same noise carried the other way; None where there is none.
        other_updates: how many it takes.
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

    def rate(self, update: Update) -> float:
        """The optimizer's rate in `update`."""
        return self.lr * update.lr_factor

    def noise(self, update: Update) -> float:
        """g of `update`."""
        return self.plan.noise(update, self.lr)

    def matched_noise(self, rate: float, size: int) -> float:
        """lr n(B)^p: the noise that the plan and its counterpart have in common; g for SGD with match=exact."""
        return rate * float(batch_noise(self.match, self.plan.num_examples, size) ** NOISE_RULES[self.rule])

    @property
    def keeps_g(self) -> bool:
        """Whether `matched_noise` is g."""
        return self.rule == "sgd" and self.match == "exact"

    def matched_noise_formula(self) -> str:
        """The formula of `matched_noise`."""
        return noise_formula(self.rule, self.match)

    def memory(self, size: int) -> float:
        """B / (N (1 - m)): epochs that the momentum buffer takes to fill, or to forget, at B = size (Smith et al. 1711.00489, 5.2)."""
        return size / (self.plan.num_examples * (1.0 - self.momentum))

    def comparison(self) -> str:
        """One line: the updates against those of the counterpart."""
        n = len(self.updates)
        total = f"{_grouped(n)} update{'s' if n > 1 else ''}"
        if self.other is None or self.plan.max_updates is not None or self.plan.max_updates_per_epoch is not None:
            return total  # cut short, either would be another training
        noise = "noise" if self.keeps_g else self.matched_noise_formula()
        if isinstance(self.other.strategy, Dual):
            return f"{total}; with the same {noise} in the batch (batch=dual) {_grouped(self.other_updates)}{_times(n, self.other_updates)}"
        assert isinstance(self.other.strategy, Fixed)
        size = self.other.strategy.size
        if n == self.other_updates:
            return f"{total}, as many as at B = {size} with the same {noise}"
        return f"{total} instead of {_grouped(self.other_updates)} at B = {size} with the same {noise}{_times(self.other_updates, n)}"


def summarize(plan: Plan, lr: float, momentum: float = 0.0, optimizer: str = "SGD") -> PlanSummary:
    """Go through all updates of a plan that has an end.

    Args:
        plan: what is planned.
        lr: the optimizer's learning rate, lr0.
        momentum: m, in [0, 1); 0 for optimizers without momentum.
        optimizer: its class name, which decides what noise is.
    """
    updates, strategy = list(plan), plan.strategy
    rule, match = noise_rule_of(optimizer), "exact"
    if isinstance(strategy, Matched):
        assert strategy.rule is not None
        rule, match = strategy.rule, strategy.match
    other = counterpart(plan, rule)
    stop = plan.after(updates[-1]).position / plan.num_examples
    end = stop if plan.epochs is None else min(stop, plan.epochs)
    return PlanSummary(plan, lr, momentum, rule, match, updates, phases_of(updates, end), other, other.total_updates() if other else 0)


def write_plan(summary: PlanSummary, path: Path) -> None:
    """plan.csv, atomically: a row per update with the columns of steps.csv but for the loss."""
    plan, lr, n = summary.plan, summary.lr, summary.plan.num_examples
    micro: dict[int, int] = {}
    lines = ["step,epoch,examples_seen,lr,effective_batch_size,micro_batch_size,accumulate_grad_batches,g"]
    for update in summary.updates:
        size, start, rate = update.effective_batch_size, update.start, lr * update.lr_factor
        if size not in micro:
            micro[size] = plan.micro_batch_size(update)
        noise = sgd_noise_scale(rate, n, size)
        lines.append(
            f"{start.step},{update.epoch!r},{start.examples_seen},{rate!r},{size},{micro[size]},{update.accumulate_grad_batches},{noise!r}"
        )
    write_atomically(path, "\n".join(lines) + "\n")


def noise_formula(rule: str, match: str) -> str:
    """The noise that a strategy matches, see `noise.batch_noise`: `lr (N/B - 1)` for sgd and exact."""
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

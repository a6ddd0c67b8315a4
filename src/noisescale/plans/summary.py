"""The summary of a plan: its phases, its totals, and how many updates the same noise takes when it is carried the other way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from noisescale.files import replaced
from noisescale.plans.drift import Drift, Drifts
from noisescale.plans.duality import Dual, Matched, counterpart
from noisescale.plans.extremes import Caps, Cuts, Sizes, carries_by_batch
from noisescale.plans.noise import NOISE_RULES, batch_noise, dual_rule_of, noise_depends_on_batch, noise_rule_of, sgd_noise_scale
from noisescale.plans.phases import Constants, Phase, phases_of
from noisescale.plans.plan import Plan, Update
from noisescale.plans.samples import Samples
from noisescale.plans.strategies import Fixed
from noisescale.plans.survey import Progress, Reader, Readings
from noisescale.plans.updates_of_epochs import UpdatesOfEpochs

__all__ = ["PlanSummary", "noise_formula", "summarize", "write_plan"]

SHOWN = 4000
"""Updates of a plan that are kept to draw it, more than a figure has pixels."""


@dataclass(frozen=True)
class PlanSummary:
    """A plan with its updates, its phases and its counterpart.

    Args:
        plan, lr, momentum: the plan, and the optimizer's learning rate and momentum (0: none).
        rule, match: which noise the counterpart shares, see `noise.batch_noise`.
        total: the number of updates of the plan, which are not kept.
        shown: some of its full updates, evenly distributed over the training, at most `SHOWN`: enough to draw it.
        sizes, caps, cuts: what is notable about its batch sizes. There are no caps if the batch carries no noise, and no cuts without a
            counterpart whose learning rate falls.
        phases: its phases, in order.
        other: its counterpart, which carries the same noise the other way; None if there is none.
        other_updates: the number of updates of the counterpart; 0 if there is none.
        epochs, other_epochs: the updates of the first and of the last epoch, of the plan and of its counterpart.
        drift, other_drift: of the plan and of its counterpart; that of the counterpart is 0 if there is none.
        is_noise: whether what they share is the noise of the optimizer; that of Adam is another, see `noise.dual_rule_of`.
    """

    plan: Plan
    lr: float
    momentum: float
    rule: str
    match: str
    total: int
    shown: Sequence[Update]
    sizes: Sizes
    caps: Caps | None
    cuts: Cuts | None
    phases: Sequence[Phase]
    other: Plan | None
    other_updates: int
    epochs: UpdatesOfEpochs
    other_epochs: UpdatesOfEpochs
    drift: Drift
    other_drift: Drift
    is_noise: bool = True

    @property
    def updates(self) -> Iterator[Update]:
        """All updates of the plan, computed again."""
        return iter(self.plan)

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
        n = self.total
        total = f"{_grouped(n)} update{'s' if n > 1 else ''}"
        if not self._has_comparison:
            return total
        assert self.other is not None
        noise = self.matched_noise_formula() if not self.keeps_g else "noise" if self.is_noise else "g"
        if isinstance(self.other.strategy, Dual):
            fewer = f"{_grouped(self.other_updates)} with the same {noise} in the batch (batch=dual)"
            return f"{total}; {fewer}{_times(n, self.other_updates)}"
        assert isinstance(self.other.strategy, Fixed)
        size = self.other.strategy.size
        if n == self.other_updates:
            return f"{total}, as many as at B = {size} with the same {noise}"
        return f"{total} instead of {_grouped(self.other_updates)} at B = {size} with the same {noise}{_times(self.other_updates, n)}"

    def splits_in_words(self) -> str:
        """One line about the updates that are cut for a measurement; empty if none is."""
        every = self.plan.split_every
        if every is None:
            return ""
        return f"one update in {every} is cut into at least two pieces, so that the gradient noise can be measured"

    def drift_in_words(self) -> str:
        """One line with the drift of the plan and of its counterpart."""
        here = f"sum of lr: {self.drift.whole:.4g} (last quarter {self.drift.last_quarter:.4g})"
        if not self._has_comparison:
            return here
        assert self.other is not None
        other = f"at B = {self.other.strategy.size}" if isinstance(self.other.strategy, Fixed) else "batch=dual"
        return f"{here}; {other}: {self.other_drift.whole:.4g} ({self.other_drift.last_quarter:.4g})"

    def all_reduces_in_words(self) -> list[str]:
        """Lines with the all-reduces per epoch of the plan and of its counterpart; none on a single device.

        The devices average all gradients once per update, after the last of its micro-batches. So it is the number of updates that costs
        communication, and this is what growing the batch saves.
        """
        if self.plan.world_size == 1:
            return []
        first, last = _grouped(self.epochs.first), _grouped(self.epochs.last)
        lines = [f"all-reduces, one per update: {first} in the first epoch, {last} in the last"]
        if not self._has_comparison:
            return lines
        assert self.other is not None
        assert self.plan.epochs is not None
        if isinstance(self.other.strategy, Fixed):
            name, who, saved = f"at B = {self.other.strategy.size}", "so this plan", self.other_updates - self.total
        else:
            name, who, saved = "batch=dual", "which", self.total - self.other_updates
        mean = round(abs(saved) / self.plan.epochs)
        difference = f", {who} {'saves' if saved > 0 else 'adds'} {_grouped(mean)} per epoch" if mean else ""
        return [*lines, f"{name}: {_grouped(self.other_epochs.first)} and {_grouped(self.other_epochs.last)}{difference}"]


def summarize(plan: Plan, lr: float, momentum: float = 0.0, optimizer: str = "SGD", progress: Progress | None = None) -> PlanSummary:
    """The summary of a plan that has an end. The plan and its counterpart are read once each, and not kept.

    Args:
        plan: the plan.
        lr: the optimizer's learning rate, lr0.
        momentum: m, in [0, 1); 0 for optimizers without momentum.
        optimizer: its class name, which decides the rule of the noise.
        progress: is called with the share of the work that is done, 0 to 1.
    """
    strategy = plan.strategy
    rule, match = dual_rule_of(optimizer), plan.match
    if isinstance(strategy, Matched):
        assert strategy.rule is not None
        rule, match = strategy.rule, strategy.match
    other = counterpart(plan, rule) if noise_depends_on_batch(optimizer) else None
    readings = Readings(progress, 1 + (other is not None) + (plan.max_updates is not None))
    end = plan.end() if plan.max_updates is None else readings.of(plan, []).end
    sizes, constants, drifts, other_drifts = Sizes(plan), Constants(end), Drifts(plan, end), Drifts(plan, end)
    epochs, other_epochs = UpdatesOfEpochs(), UpdatesOfEpochs()
    full, any_size = Samples(plan, end, SHOWN, only_full=True), Samples(plan, end, SHOWN, only_full=False)
    caps = Caps(plan) if carries_by_batch(strategy) else None
    cuts = Cuts(plan, other) if other is not None and rule == "sgd" and not isinstance(other.strategy, Dual) else None
    readers: list[Reader] = [sizes, constants, epochs, drifts, full, any_size, *(each for each in (caps, cuts) if each is not None)]

    landmarks = readings.of(plan, readers)
    constants.finish()
    others = 0 if other is None else readings.of(other, [other_drifts, other_epochs]).updates
    phases = phases_of(constants, landmarks)
    return PlanSummary(
        plan,
        lr,
        momentum,
        rule,
        match,
        landmarks.updates,
        full.updates or any_size.updates,
        sizes,
        caps,
        cuts,
        phases,
        other,
        others,
        epochs,
        other_epochs,
        drifts.drift(lr),
        other_drifts.drift(lr),
        rule == noise_rule_of(optimizer),
    )


def write_plan(summary: PlanSummary, path: Path, progress: Progress | None = None) -> None:
    """Write plan.csv atomically: a row per update, with the columns of steps.csv except the loss.

    Args:
        progress: is called with the share of the rows that are written, 0 to 1.
    """
    plan, lr, n, every = summary.plan, summary.lr, summary.plan.num_examples, summary.plan.split_every
    size, cuts = 0, ((0, 0), (0, 0))
    with replaced(path) as file:
        file.write("step,epoch,examples_seen,lr,effective_batch_size,micro_batch_size,accumulate_grad_batches,g\n")
        for number, stretch in enumerate(plan.stretches()):
            if stretch.effective_batch_size != size:
                size = stretch.effective_batch_size
                cuts = _cuts(plan, plan.update_in(stretch))
            rate = lr * stretch.lr_factor
            noise = sgd_noise_scale(rate, n, size, plan.replacement)
            usual, split = (f"{rate!r},{size},{micro},{k},{noise!r}\n" for micro, k in cuts)
            step, position, seen = stretch[:3]
            for i in range(stretch.updates):
                tail = split if every and (step + i + 1) % every == 0 else usual
                file.write(f"{step + i},{(position + i * size) / n!r},{seen + i * size},{tail}")
            if progress is not None and number % 1024 == 0:
                progress((step + stretch.updates) / summary.total)


def _cuts(plan: Plan, update: Update) -> tuple[tuple[int, int], tuple[int, int]]:
    """(largest micro-batch, micro-batches of each device) of an update of that size, usually and where `split_every` has its turn."""
    usual, split = (replace(update, accumulate_grad_batches=k) for k in plan.ways_to_cut(update.effective_batch_size))
    return (
        (plan.micro_batch_size(usual), usual.accumulate_grad_batches),
        (plan.micro_batch_size(split), split.accumulate_grad_batches),
    )


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

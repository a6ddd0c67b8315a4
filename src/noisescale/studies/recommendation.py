"""From measurements to a recommendation: which batch size, which learning rate, whether to grow the batch; nothing is trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from noisescale.plans.noise import NOISE_RULES

__all__ = ["Arm", "Branching", "Finding", "Measured", "NoiseAt", "Rates", "Recommendation", "Speed", "recommendation"]

FAST = 0.9
"""A batch is fast enough if it trains this share of the examples per second of the fastest one."""


@dataclass(frozen=True)
class Speed:
    """Examples per second of updates with `batch_size` examples: the median of several, the lowest and the highest."""

    batch_size: int
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Rates:
    """What a learning-rate range test at `batch_size` examples suggests: name -> learning rate; and where it diverged, if it did."""

    batch_size: int
    suggestions: dict[str, float]
    diverged_at: float | None = None


@dataclass(frozen=True)
class NoiseAt:
    """The gradient noise scale B_simple = tr(Sigma)/|G|^2 at an epoch, in examples, with its interval; nan where it is undefined."""

    epoch: float
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Arm:
    """The loss at the end of the branches with one batch size, over `n` seeds; nan if one of them diverged."""

    batch_size: int
    lr: float
    loss: float
    spread: float
    n: int


@dataclass(frozen=True)
class Branching:
    """Branches of equal noise from one point of a training.

    Attributes:
        epoch: where they begin.
        arms: their losses, in the order of their batch sizes.
        held: the largest batch size up to which nothing was lost; None if even the smallest lost something.
        broke: the smallest one above it that lost something; None if none did.
        by: what broke it: "batch" or "instability"; empty if nothing broke.
    """

    epoch: float
    arms: tuple[Arm, ...]
    held: int | None
    broke: int | None
    by: str = ""


@dataclass(frozen=True)
class Measured:
    """Everything that was measured; what is empty or None was not.

    Attributes:
        num_examples, epochs: N, and the length of the training that the recommendation is for.
        batch_size, lr: those of the configuration, from which the measurements start.
        rule: which noise the optimizer has: sgd (lr ~ B) or adaptive (lr ~ sqrt(B)).
        tolerance: the share of the loss that counts as nothing lost.
        devices: W.
        limit: the largest micro-batch that fits, in examples; None: no limit was found, or none was looked for.
        limit_was_measured: whether `limit` was found by trying, and not typed.
    """

    num_examples: int
    epochs: float
    batch_size: int
    lr: float
    rule: str
    tolerance: float
    devices: int = 1
    limit: int | None = None
    limit_was_measured: bool = False
    speeds: tuple[Speed, ...] = ()
    rates: Rates | None = None
    noise: tuple[NoiseAt, ...] = ()
    branches: tuple[Branching, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A sentence of the recommendation, the measurement that it rests on, and, if that does not decide, the one that would."""

    about: str
    sentence: str
    rests_on: str
    would_decide: str = ""

    @property
    def is_sure(self) -> bool:
        """Whether the measurements decide it."""
        return not self.would_decide


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        batch_size, lr: B and the learning rate to begin with.
        accumulate: the micro-batches of an update on each device.
        max_batch_size: up to where the batch may grow without loss; None if that is not known, or not above `batch_size`.
        findings: why, in the order in which a reader asks.
    """

    batch_size: int
    lr: float
    accumulate: int
    max_batch_size: int | None
    findings: tuple[Finding, ...] = field(default=())

    @property
    def is_sure(self) -> bool:
        """Whether all findings about the batch size and the learning rate are sure."""
        return all(each.is_sure for each in self.findings if each.about in ("batch size", "learning rate"))


def recommendation(measured: Measured) -> Recommendation:
    """The batch size, the learning rate and the growth that the measurements support.

    B is the smallest batch that is fast enough, but at most the smallest `held` of all branchings: beyond it something would be lost at
    some time of the training. Without a speed it is the batch of the configuration, within the same bound. B is rounded down to one that
    was tried. The learning rate is the one that was tested, moved to B by the rule that keeps the noise: lr (B/B_tested)^p, with p = 1 for
    sgd and 1/2 for adaptive optimizers. A branch decides, and not B_simple, which does not predict the best batch size (2505.23971): it
    is shown beside it.
    """
    batch, about_batch = _batch_size(measured)
    lr, about_lr = _lr(measured, batch)
    largest, about_growth = _growth(measured, batch)
    limit = measured.limit or batch
    accumulate = max(1, math.ceil(batch / (measured.devices * limit)))
    findings = (*about_batch, about_lr, *_memory(measured, batch, accumulate), about_growth, *_larger(measured), *_proxy(measured))
    return Recommendation(batch, lr, accumulate, largest, findings)


# -- batch size -----------------------------------------------------------------------------------------------------------------


def _batch_size(measured: Measured) -> tuple[int, list[Finding]]:
    fast, about = _fast_enough(measured.speeds)
    bounds = [each.held for each in measured.branches]
    if not bounds:
        batch = fast or measured.batch_size
        sentence = f"B = {batch} is {'fast enough' if fast else 'the one of the configuration'}; whether it costs accuracy was not measured"
        return batch, [*about, Finding("batch size", sentence, "no branches", "branches from an early and a late epoch")]
    if any(held is None for held in bounds):
        tried = min(arm.batch_size for each in measured.branches for arm in each.arms)
        sentence = f"even the smallest batch that was tried, B = {tried}, lost something against the others"
        return measured.batch_size, [*about, Finding("batch size", sentence, "branches", "branches with smaller batches and more seeds")]
    bound = min(held for held in bounds if held is not None)
    sizes = sorted({arm.batch_size for each in measured.branches for arm in each.arms if arm.batch_size <= bound})
    wanted = fast if fast is not None else measured.batch_size
    batch = next((size for size in sizes if size >= wanted), sizes[-1])
    open_end = all(each.broke is None for each in measured.branches)
    if wanted > bound:
        why = f"B = {batch} is the largest batch with which nothing was lost at any time; a faster one, B = {wanted}, would lose something"
    else:
        why = (
            f"B = {batch} is {'fast enough, and ' if fast else ''}within the bound of B = {bound} up to which nothing was lost at any time"
        )
    few = min((arm.n for each in measured.branches for arm in each.arms), default=0)
    unsure = "branches with three seeds or more" if few < 3 else ""
    unsure = unsure or ("branches with larger batches, to find where they break" if open_end and wanted > bound else "")
    return batch, [*about, Finding("batch size", why, "branches", unsure)]


def _fast_enough(speeds: Sequence[Speed]) -> tuple[int | None, list[Finding]]:
    """The smallest batch that is fast enough; None if no speed was measured."""
    if not speeds:
        return None, []
    ordered = sorted(speeds, key=lambda each: each.batch_size)
    best = max(ordered, key=lambda each: each.median)
    found = next(each for each in ordered if each.median >= FAST * best.median)
    sentence = (
        f"B = {found.batch_size} trains {found.median:.0f} examples per second, {found.median / best.median:.0%} of the fastest batch"
        f" that was tried, B = {best.batch_size}"
    )
    undecided = ""
    if best is ordered[-1] and found is best and len(ordered) > 1:
        undecided = "the speed of larger batches, because the largest one that was tried is still faster than the others"
    elif found is not best and found.low < FAST * best.median * 0.9:
        undecided = "more rounds of the speeds, whose spread is larger than the difference"
    return found.batch_size, [Finding("speed", sentence, "speeds", undecided)]


# -- learning rate --------------------------------------------------------------------------------------------------------------


def _lr(measured: Measured, batch: int) -> tuple[float, Finding]:
    exponent = NOISE_RULES[measured.rule]
    formula = "lr B/B_0" if exponent == 1.0 else "lr sqrt(B/B_0)"
    if measured.rates is None or not measured.rates.suggestions:
        lr = measured.lr * (batch / measured.batch_size) ** exponent
        moved = f", moved from B = {measured.batch_size} by {formula}" if batch != measured.batch_size else ""
        sentence = f"lr = {lr:.3g} is the one of the configuration{moved}; no other one was tried"
        return lr, Finding("learning rate", sentence, "no range test", "a range test")
    rates = measured.rates
    tested = _middle(rates.suggestions)
    lr = tested * (batch / rates.batch_size) ** exponent
    low, high = min(rates.suggestions.values()), max(rates.suggestions.values())
    moved = f", moved to B = {batch} by {formula}" if batch != rates.batch_size else ""
    sentence = (
        f"lr = {lr:.3g}: at B = {rates.batch_size} the range test suggests {low:.3g} to {high:.3g}, of which {tested:.3g} is taken{moved}"
    )
    undecided = "short trainings with each of the suggestions, which differ more than tenfold" if high > 10.0 * low else ""
    return lr, Finding("learning rate", sentence, "range test", undecided)


def _middle(suggestions: dict[str, float]) -> float:
    """The median suggestion; the lower of the two in the middle, because a learning rate that is too large costs more."""
    ordered = sorted(suggestions.values())
    return ordered[(len(ordered) - 1) // 2]


# -- memory, growth, and what larger batches cost -------------------------------------------------------------------------------


def _memory(measured: Measured, batch: int, accumulate: int) -> list[Finding]:
    if measured.limit is None:
        return []
    how = "the largest micro-batch that was run" if measured.limit_was_measured else "the limit of the configuration"
    sentence = f"{accumulate} micro-batches per update: {how} has {measured.limit} examples"
    if batch <= measured.limit * measured.devices:
        sentence = f"no accumulation: {how} has {measured.limit} examples"
    return [Finding("memory", sentence, "micro-batch")]


def _growth(measured: Measured, batch: int) -> tuple[int | None, Finding]:
    """Up to where the batch may grow, and whether early or late."""
    known = sorted((each for each in measured.branches if each.held is not None), key=lambda each: each.epoch)
    if len(known) < 2:
        largest = known[0].held if known and known[0].held is not None and known[0].held > batch else None
        return largest, Finding("growth", "whether the batch can grow later was not measured", "branches", "branches from a late epoch")
    first, last = known[0], known[-1]
    assert first.held is not None
    assert last.held is not None
    largest = last.held if last.held > batch else None
    at = f"at epoch {first.epoch:g} and at epoch {last.epoch:g}"
    if first.broke is not None and last.held >= first.broke:
        sentence = (
            f"grow late: nothing is lost up to B = {first.held} at epoch {first.epoch:g} and up to B = {last.held} at epoch {last.epoch:g}"
        )
        return largest, Finding("growth", sentence, "branches")
    if last.broke is not None and first.held >= last.broke:
        fall = f"from B = {first.held} at epoch {first.epoch:g} to B = {last.held} at epoch {last.epoch:g}"
        sentence = f"grow early, if at all: the bound falls {fall}"
        return largest, Finding("growth", sentence, "branches")
    if first.broke is not None and last.broke is not None:
        low, high = max(first.held, last.held), min(first.broke, last.broke)
        sentence = f"early or late makes no difference: {at} the batch breaks between B = {low} and B = {high}"
        return largest, Finding("growth", sentence, "branches", "" if high <= 4 * low else "branches with sizes between these")
    sentence = f"no batch that was tried broke {at}, so nothing says when to grow"
    return largest, Finding("growth", sentence, "branches", "branches with larger batches")


def _larger(measured: Measured) -> list[Finding]:
    """What a batch above the bound costs."""
    found = []
    for each in measured.branches:
        if each.broke is None or each.held is None:
            continue
        losses = {arm.batch_size: arm.loss for arm in each.arms}
        before, after = losses[each.held], losses[each.broke]
        cost = "the training diverged" if not math.isfinite(after) else f"the loss is {after:.3g} instead of {before:.3g}"
        why = "the learning rate that keeps the noise is too large" if each.by == "instability" else "the batch is too large"
        sentence = f"at epoch {each.epoch:g}, B = {each.broke} costs: after the same examples {cost}; {why}"
        found.append(Finding("larger batches", sentence, "branches"))
    return found


def _proxy(measured: Measured) -> list[Finding]:
    """B_simple beside the branches, and whether they agree."""
    defined = [each for each in measured.noise if math.isfinite(each.value) and each.value > 0.0]
    if not defined:
        return []
    values = ", ".join(f"{each.value:.3g} at epoch {each.epoch:g}" for each in defined)
    sentence = f"B_simple, the gradient noise scale, is {values}"
    pairs = [(near.value, each) for each in measured.branches if (near := _nearest(defined, each.epoch)) is not None and each.held]
    if pairs:
        agree = all((held.held or 0) / 2 <= value <= 2 * (held.broke or math.inf) for value, held in pairs)
        sentence += f"; it {'agrees' if agree else 'does not agree'} with the branches, which decide"
    return [Finding("noise scale", sentence, "gradient noise scale")]


def _nearest(noise: Sequence[NoiseAt], epoch: float) -> NoiseAt | None:
    return min(noise, key=lambda each: abs(each.epoch - epoch), default=None)

"""From measurements to a recommendation: which batch size, which learning rate, whether to grow the batch; nothing is trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from noisescale.measures.branches import RULES
from noisescale.measures.throughput import saturation
from noisescale.studies.branch_words import CAUSES
from noisescale.studies.finding import Finding, further_findings
from noisescale.studies.measured import Measured, Speed

__all__ = ["FAST", "Finding", "Recommendation", "recommendation"]

FAST = 0.9
"""A batch is fast enough if it trains this share of the examples per second of the fastest one."""


DECISIVE = ("batch size", "learning rate", "rule", "new weights", "budget")
"""What the findings are about on which the batch size and the learning rate depend."""


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
        """Whether the findings that the batch size and the learning rate depend on are sure."""
        return all(each.is_sure for each in self.findings if each.about in DECISIVE)


def recommendation(measured: Measured) -> Recommendation:
    """The batch size, the learning rate and the growth that the measurements support.

    B is the smallest batch that is fast enough, but at most the bound: the largest batch with which nothing was lost at any time at which
    branches began. Without a speed it is the batch of the configuration, within the same bound. That of the configuration is given up for
    a smaller one only if it is shown to be worse. B is a size that was tried. The learning rate is the one that was tested, moved to B by
    the rule that keeps the noise: lr (B/B_tested)^p, with p = 1 for sgd; for adaptive optimizers p = 1/2, unless the branches show that
    p = 1 holds longer. A pair that diverged from new weights is not recommended: the tested one is. Branches decide, and not B_simple,
    which does not predict the best batch size (2505.23971); it is shown beside them.
    """
    batch, about_batch = _batch_size(measured)
    largest, about_growth = _growth(measured, batch)
    if measured.check is not None and measured.check.diverged:
        batch, largest = measured.batch_size, None
    lr, about_lr = _lr(measured, batch)
    accumulate = math.ceil(batch / (measured.devices * (measured.limit or batch)))
    further = further_findings(measured, batch, lr, largest is not None)
    memory = _memory(measured, batch, accumulate)
    findings = (*about_batch, about_lr, *further, *memory, about_growth, *_larger(measured), *_proxy(measured))
    return Recommendation(batch, lr, max(1, accumulate), largest, findings)


# -- batch size -----------------------------------------------------------------------------------------------------------------


def _batch_size(measured: Measured) -> tuple[int, list[Finding]]:
    fast, about = _fast_enough(measured.speeds)
    brackets = [each.critical for each in measured.by_rule(measured.scaling)]
    if not brackets:
        trained = any(each.rule == measured.scaling for point in measured.branches for each in point.rules)
        why = "the loss hardly moved in the branches" if trained else "no branches were trained"
        sentence = f"B = {measured.batch_size} is the one of the configuration: {why}, so nothing says what another batch would cost"
        return measured.batch_size, [*about, Finding("batch size", sentence, "no branches", "branches from an early and a late epoch")]
    own = measured.batch_size
    tried = sorted({each.size for found in measured.by_rule(measured.scaling) for each in found.sizes})
    shown = int(min(each.at_least for each in brackets))
    open_to_own = shown < own < min(each.below for each in brackets)  # not shown to be as good as smaller ones, nor to be worse
    bound = own if open_to_own else shown
    wanted = fast if fast is not None else own
    sizes = [size for size in tried if size <= bound]
    batch = next((size for size in sizes if size >= wanted), sizes[-1])
    if open_to_own and batch > shown:
        chosen = "the one of the configuration" if batch == own else "fast enough"
        sentence = f"B = {batch} is {chosen}: the seeds differ too much to say whether it loses anything against B = {tried[0]}"
        return batch, [*about, Finding("batch size", sentence, "branches", "branches with more seeds")]
    if bound == tried[0]:
        worse = min(each.below for each in brackets)
        between = f"B = {worse:.0f} loses something; what lies between is not known" if math.isfinite(worse) else "larger ones are open"
        sentence = f"B = {batch} is the smallest batch that was tried, and {between}"
        return batch, [*about, Finding("batch size", sentence, "branches", "branches with smaller batches, and with more seeds")]
    if wanted <= bound:
        fine = f"within the bound of B = {bound} up to which nothing beyond the tolerance was lost at any time"
        rises = about[0].would_decide if about and batch == tried[-1] else ""
        return batch, [*about, Finding("batch size", f"B = {batch} is {'fast enough, and ' if fast else ''}{fine}", "branches", rises)]
    faster = f"a faster one, B = {wanted}, was not shown to be as good"
    sentence = f"B = {batch} is the largest batch with which nothing beyond the tolerance was lost at any time; {faster}"
    undecided = ""
    if math.isinf(min(each.below for each in brackets)):
        undecided = "branches with larger batches, to find where they break"
    elif max(each.below / each.at_least for each in brackets) > 4:
        undecided = "more seeds, which narrow the bracket of the bound"
    return batch, [*about, Finding("batch size", sentence, "branches", undecided)]


def _fast_enough(speeds: Sequence[Speed]) -> tuple[int | None, list[Finding]]:
    """The smallest batch that is fast enough; None if no speed was measured."""
    if not speeds:
        return None, []
    ordered = sorted(speeds, key=lambda each: each.batch_size)
    best = max(ordered, key=lambda each: each.median)
    enough = saturation({each.batch_size: each.median for each in ordered}, FAST)
    found = next(each for each in ordered if each.batch_size == enough)
    sentence = (
        f"B = {found.batch_size} trains {found.median:.0f} examples per second, {found.median / best.median:.0%} of the fastest batch"
        f" that was tried, B = {best.batch_size}"
    )
    undecided = ""
    if best is ordered[-1] and found is best and len(ordered) > 1:
        undecided = "the speed of larger batches, because the largest one that was tried is still faster than the others"
    elif found is not best and found.low < 0.9 * FAST * best.median:
        undecided = "more rounds of the speeds, whose spread is larger than the difference"
    return found.batch_size, [Finding("speed", sentence, "speeds", undecided)]


# -- learning rate --------------------------------------------------------------------------------------------------------------


def _lr(measured: Measured, batch: int) -> tuple[float, Finding]:
    exponent = RULES[measured.scaling]
    formula = "lr B/B0" if measured.scaling == "linear" else "lr sqrt(B/B0)"
    if measured.rates is None or not measured.rates.suggestions:
        lr = measured.lr * (batch / measured.batch_size) ** exponent
        moved = f", moved from B0 = {measured.batch_size} by {formula}" if batch != measured.batch_size else ""
        sentence = f"lr = {lr:.3g} is the one of the configuration{moved}; a range test suggested no other one, or there was no time for it"
        return lr, Finding("learning rate", sentence, "no range test", "a range test")
    rates = measured.rates
    tested = rates.chosen
    lr = tested * (batch / rates.batch_size) ** exponent
    moved = f", moved to B = {batch} by {formula}" if batch != rates.batch_size else ""
    low, high = min(rates.suggestions.values()), max(rates.suggestions.values())
    suggested = f"at B0 = {rates.batch_size} the range test suggests {low:.3g} to {high:.3g}"
    if not rates.trials:
        undecided = "short trainings with several rates, which the budget has not allowed"
        return lr, Finding("learning rate", f"lr = {lr:.3g}: {suggested}, of which {tested:.3g} is taken{moved}", "range test", undecided)
    tried = [each.lr for each in rates.trials if math.isfinite(each.loss)]
    if not tried:
        sentence = f"lr = {lr:.3g}: {suggested}, of which {tested:.3g} is taken{moved}; all {len(rates.trials)} short trainings diverged"
        return lr, Finding("learning rate", sentence, "range test", "trainings with smaller rates")
    undecided = "trainings with smaller rates" if tested == tried[0] else "trainings with larger rates" if tested == tried[-1] else ""
    undecided = "" if len(tried) < len(rates.trials) and tested == tried[-1] else undecided  # the next one diverged
    trained = f"of {len(rates.trials)} rates in short trainings of {rates.trials[0].updates} updates"
    best = f"{tested:.3g} is the smallest whose loss differs from the lowest by no more than the seeds do"
    sentence = f"lr = {lr:.3g}: at B0 = {rates.batch_size}, {trained}, {best}{moved}; {suggested}"
    return lr, Finding("learning rate", sentence, "short trainings", undecided)


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
    points = [(point.at.epoch, found.critical) for point in measured.telling for found in measured.of_point(point, measured.scaling)]
    if len(points) < 2:
        when = f"after epoch {points[0][0]:.3g} " if points else ""
        sentence = f"whether the batch can grow {when}was not measured"
        if sum(each.rule == measured.scaling for point in measured.branches for each in point.rules) > len(points):
            sentence = f"whether the batch can grow {when}does not show, because the loss hardly moved in the other branches"
        return None, Finding("growth", sentence, "branches", "branches from more epochs at which the loss still falls")
    (early, first), (late, last) = points[0], points[-1]
    both = f"at epoch {early:.3g} and at epoch {late:.3g}"
    bounds = f"nothing is lost up to B = {first.at_least:.0f} at epoch {early:.3g} and up to B = {last.at_least:.0f} at epoch {late:.3g}"
    if last.at_least >= first.below:
        largest = int(last.at_least)
        return largest if largest > batch else None, Finding("growth", f"grow late: {bounds}", "branches")
    if first.at_least >= last.below:
        return None, Finding("growth", f"grow early, if at all: {bounds}", "branches")
    if math.isinf(first.below) and math.isinf(last.below):
        sentence = f"no batch that was tried broke {both}, so nothing says when to grow"
        return None, Finding("growth", sentence, "branches", "branches with larger batches")
    low, high = int(min(first.at_least, last.at_least)), max(first.below, last.below)
    if high <= 4 * low:
        sentence = f"early or late makes no difference: {both} the batch breaks from B = {low} to {high:.0f}"
        return low if low > batch else None, Finding("growth", sentence, "branches")
    return None, Finding("growth", f"{bounds}; the brackets overlap", "branches", "more seeds, and sizes between these")


def _larger(measured: Measured) -> list[Finding]:
    """What a batch above the bound costs."""
    found = []
    for point in measured.branches:
        for each in point.rules:
            if each.rule != measured.scaling or math.isinf(each.critical.below) or not math.isfinite(each.sizes[0].loss):
                continue
            worse = next(size for size in each.sizes if size.size == each.critical.below)
            good = next(size for size in each.sizes if size.size == each.critical.at_least)
            cost = (
                f"the loss is {worse.loss:.3g}, and {good.loss:.3g} with B = {good.size}"
                if math.isfinite(worse.loss)
                else "the training diverged"
            )
            sentence = (
                f"at epoch {point.at.epoch:.3g} with B = {worse.size}, after the same examples, {cost}; {CAUSES[each.critical.cause]}"
            )
            found.append(Finding("larger batches", sentence, "branches"))
    return found


def _proxy(measured: Measured) -> list[Finding]:
    """B_simple beside the branches, and whether they agree within a factor of two."""
    pairs = [(point, each.critical) for point in measured.branches for each in point.rules if each.rule == measured.scaling]
    known = [(point, critical) for point, critical in pairs if math.isfinite(point.at.noise_scale)]
    if not known:
        return []
    values = ", ".join(f"{point.at.noise_scale:.3g} at epoch {point.at.epoch:.3g}" for point, _ in known)
    agree = all(critical.at_least / 2 <= point.at.noise_scale <= 2 * critical.below for point, critical in known)
    closed = all(critical.below <= 4 * critical.at_least for _, critical in known)  # a wider bracket agrees with nearly everything
    verdict = (
        "does not agree with the branches" if not agree else "agrees with the branches" if closed else "is within what they leave open"
    )
    return [Finding("noise scale", f"B_simple, the gradient noise scale, is {values}; it {verdict}, which decide", "gradients")]

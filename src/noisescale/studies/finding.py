"""A sentence of a recommendation; and those about the rule, the check from new weights, and the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from noisescale.studies.measured import Measured

__all__ = ["Finding", "further_findings"]


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


def further_findings(measured: Measured, batch: int, lr: float, grows: bool) -> Iterator[Finding]:
    """What there is to say of the rule by which the rate goes with the batch, of the pair from new weights, and of the budget.

    Args:
        measured: what was measured.
        batch, lr: the pair that is recommended.
        grows: whether the batch may grow from there.
    """
    if measured.usual != "linear":
        yield _rule(measured, grows or batch != measured.batch_size)
    yield from _new_weights(measured, batch, lr)
    if measured.cut_short:
        remedy = "the same command in the same folder with a larger budget, which goes on"
        yield Finding("budget", f"there was no time for {measured.cut_short}", "time", remedy)


def _rule(measured: Measured, matters: bool) -> Finding:
    """The rule by which the learning rate of an adaptive optimizer goes with the batch."""
    names = {"linear": "linearly with B", "sqrt": "as the square root of B"}
    if measured.winner is not None:
        other = next(rule for rule in names if rule != measured.winner)
        sentence = f"lr goes {names[measured.winner]}: a batch that loses nothing so is worse with lr going {names[other]}"
        return Finding("rule", sentence, "branches")
    sentence = f"lr goes {names[measured.usual]}, the rule of the plan; the branches do not tell it from the other one"
    if not matters:
        return Finding("rule", f"{sentence}, but this batch needs neither", "branches")
    both = [each.critical for rule in names for each in measured.by_rule(rule)]
    larger = both and all(math.isinf(each.below) for each in both)
    return Finding("rule", sentence, "branches", "branches with larger batches" if larger else "branches with more seeds")


def _new_weights(measured: Measured, batch: int, lr: float) -> Iterator[Finding]:
    check, rates = measured.check, measured.rates
    if check is not None:
        said = f"B = {check.batch_size} with lr = {check.lr:.3g}, trained from new weights for {check.updates} updates, "
        before = f"; B = {measured.batch_size} with its rate ends at {fmean(check.against):.3g}" if check.against else ""
        if check.diverged:
            end = "diverges, so the batch and the rate of the short trainings are kept"
            yield Finding("new weights", said + end, "a last check", "a longer warm-up, or a batch in between")
        else:
            worse = "whole trainings with both" if check.is_worse or check.is_open else ""
            yield Finding("new weights", f"{said}ends at loss {fmean(check.losses):.3g}{before}", "a last check", worse)
        return
    tested = next((each for each in rates.trials if each.lr == lr), None) if rates is not None and batch == rates.batch_size else None
    if tested is not None and math.isfinite(tested.loss):
        yield Finding("new weights", f"this pair was trained so: it ended at loss {tested.loss:.3g}", "short trainings")
    else:
        sentence = "this batch with this rate was not trained from new weights, because there was no time for it"
        yield Finding("new weights", sentence, "nothing", "a short training with this pair, or a larger budget")

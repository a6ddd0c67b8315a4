"""What branches have shown, in words: a line per checkpoint and rule, and percents that a person can read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from noisescale.studies.branch_results import PointFound, RuleFound, SizeFound

__all__ = ["CAUSES", "in_words", "limit_in_words", "percent", "percents", "verdict"]

CAUSES = {
    "rate": "stopped by the learning rate, not by the batch",
    "batch": "stopped by the batch: it is worse at half the learning rate, too",
    "not sure": "it is not sure whether the batch or the learning rate stopped it",
    "none": "no size that was tried is worse",
}

ONLY_INSTABILITY = "the loss does not fall significantly in a branch: only instability can show"

MANY = 10.0
"""A gain above this, 1000 %, is said as a factor."""


def in_words(found: Sequence[PointFound]) -> list[str]:
    """A line for each checkpoint and rule: the critical batch, what stopped it, what the seeds could have seen, and B_simple beside it."""
    lines = []
    for each in found:
        simple = each.at.noise_scale
        beside = f"B_simple {simple:.0f}" if math.isfinite(simple) else "B_simple undefined, because |G|^2 is not above 0"
        for rule in each.rules:
            parts = [f"critical batch {rule.critical.in_words()}", CAUSES[rule.critical.cause]]
            parts += [] if rule.reference.gains else [ONLY_INSTABILITY]
            parts += [_what_seeds_tell(rule), beside]
            lines.append(f"epoch {each.at.epoch:.3g}, lr {rule.rule} in B: " + "; ".join(part for part in parts if part))
    return lines


def limit_in_words(rule: RuleFound) -> str:
    """What counts as lost: `worse: more than 0.025 above 0.61, 50 % of what the smallest batch gains`; in lines."""
    reference = rule.reference
    loss = rule.sizes[0].loss
    if not math.isfinite(loss):
        return "the smallest batch diverged, so nothing can be compared with it"
    above = f"worse: more than {reference.allowed:.2g} above {loss:.3g}"
    if reference.by_progress:
        return f"{above}, {100 * reference.gain_tolerance:g} % of what the smallest batch gains"
    limit = f"{above}, {100 * reference.tolerance:g} % of it"
    return limit if reference.gains else f"{limit}\n{ONLY_INSTABILITY}"


def _what_seeds_tell(rule: RuleFound) -> str:
    """For the first size that is undecided below the bracket's upper end: the difference that the seeds could have seen there."""
    between = (each for each in rule.sizes if rule.critical.at_least < each.size < rule.critical.below)
    open_one = next((each for each in between if each.compared.verdict == "undecided"), None)
    if open_one is None or not math.isfinite(open_one.compared.mean):
        return ""
    seeds, reach = len(rule.reference.ends), math.expm1(open_one.compared.reach)
    return f"not decided from B = {open_one.size}: {seeds} seeds show only what is {percent(reach).lstrip('+')} away from the limit there"


def verdict(each: SizeFound, seeds: int) -> str:
    """The verdict on a size; where a branch diverged, which is worse, this is said."""
    if each.diverged:
        return "diverged" if each.diverged == seeds else f"{each.diverged} of {seeds} diverged"
    return each.compared.verdict


def percents(low: float, high: float) -> str:
    """An interval of relative losses, each 0 for no loss and 1 for 100 %, with the digits that its width needs: `-0.3 to +0.1 %`."""
    digits = _digits(high - low)
    first, last = _percent(low, digits), _percent(high, digits)
    if first == last:
        return first if first.endswith("x") else f"{first} %"
    return f"{first} % to {last}" if last.endswith("x") else f"{first} to {last} %"


def percent(value: float) -> str:
    """A relative loss with two digits: `+4.2 %`, `> 10 x`."""
    found = _percent(value, _digits(2 * abs(value)))
    return found if found.endswith("x") else f"{found} %"


def _digits(width: float) -> int:
    """Decimals of a percent, such that an interval of this width has one or two digits."""
    return min(6, max(0, -math.floor(math.log10(100 * width)))) if width > 0 else 0


def _percent(value: float, digits: int) -> str:
    if value > MANY:
        return f"> {MANY:.0f} x"
    if value < -MANY:
        return f"< -{MANY:.0f} x"
    found = f"{100 * value:+.{digits}f}"
    return "0" if float(found) == 0 else found

"""The drift of a plan: the sum of its learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite, ldexp
from typing import NamedTuple

from noisescale.plans.plan import Plan, Stretch

__all__ = ["Drift", "Drifts", "ExactSum"]


class Drift(NamedTuple):
    """The sum of lr, which is how far the updates move along a constant gradient; equal noise does not keep it.

    Args:
        whole: over all updates.
        last_quarter: over those in the last quarter of the training, by epochs.
    """

    whole: float
    last_quarter: float


class Drifts:
    """Reads a plan, and adds up its learning rates. `end`: when the plan, or the one that it is compared with, ends, in epochs."""

    def __init__(self, plan: Plan, end: float) -> None:
        self._n, self._late_from = plan.num_examples, 0.75 * end
        self._whole, self._late = ExactSum(), ExactSum()

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        self._whole.add(_terms(chunk))
        if self._is_late(chunk[0].epoch):
            self._late.add(_terms(chunk))
        elif self._is_late(chunk[-1].cursor(chunk[-1].updates - 1).position / self._n):
            late = (stretch._replace(updates=stretch.updates - stretch.first_where(self._is_late, self._n)) for stretch in chunk)
            self._late.add(_terms([stretch for stretch in late if stretch.updates]))

    def _is_late(self, epoch: float) -> bool:
        return epoch >= self._late_from

    def drift(self, lr: float) -> Drift:
        """The drift of the plan with the learning rate lr0."""
        return Drift(lr * self._whole.value(), lr * self._late.value())


def _terms(chunk: Sequence[Stretch]) -> list[float]:
    """Numbers with exactly the sum of the lr factors of all updates.

    c times a factor is the factor times 2^i for each binary digit i of c that is 1, and these products have no rounding error.
    """
    terms = [stretch[-1] for stretch in chunk]
    for stretch in chunk:
        if stretch[4] > 1:
            count, factor = stretch.updates - 1, stretch.lr_factor
            terms += [ldexp(factor, digit) for digit in range(count.bit_length()) if count >> digit & 1]
    return terms


@dataclass
class ExactSum:
    """The sum of numbers that arrive in parts, rounded once, as `math.fsum` of all of them."""

    _parts: list[float] = field(default_factory=list)  # their exact sum is that of all numbers so far

    def add(self, values: Sequence[float]) -> None:
        """Add `values`."""
        rest, self._parts = [*self._parts, *values], []
        while total := fsum(rest):
            self._parts.append(total)
            if not isfinite(total):
                break
            rest.append(-total)

    def value(self) -> float:
        """The sum."""
        return fsum(self._parts)

"""Make `Trainer.estimated_stepping_batches` the number of updates that the plan has.

Lightning computes ceil(batches of the first epoch / accumulate_grad_batches) * max_epochs, which is wrong as soon as epochs or updates
differ. `accumulate_grad_batches` is ours (a `Window`), so its quotients are numbers that know what this product should be. Everything else
that is computed with them has its ordinary value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

__all__ = ["PlannedCount", "Quotient"]


@dataclass(frozen=True)
class PlannedCount:
    """The number of updates of a training of `epochs` epochs.

    Args:
        epochs: max_epochs of the trainer, by which Lightning multiplies.
        count_updates: returns the number of updates; called once, when it is needed.
    """

    epochs: int
    count_updates: Callable[[], int]

    @cached_property
    def updates(self) -> int:
        """The number of updates."""
        return self.count_updates()


class Quotient(float):
    """batches / accumulate_grad_batches."""

    count: PlannedCount

    @classmethod
    def of(cls, value: float, count: PlannedCount) -> Quotient:
        quotient = cls(value)
        quotient.count = count
        return quotient

    def __ceil__(self) -> int:
        whole = _WholeQuotient(float(self).__ceil__())
        whole.count = self.count
        return whole


class _WholeQuotient(int):
    """ceil(batches / accumulate_grad_batches): times max_epochs, it is the number of updates of the training."""

    count: PlannedCount

    def __mul__(self, other: Any) -> Any:
        return self.count.updates if other == self.count.epochs else int(self) * other

    __rmul__ = __mul__

"""The micro-batches of one update, as the number that Lightning divides by."""

from __future__ import annotations

from typing import Any, SupportsFloat

from noisescale.execution.estimate import PlannedCount, Quotient

__all__ = ["Window"]


class Window(int):
    """k micro-batches from batch index `start` on: the integer k, except that `i % window` is (i - start) % k.

    Lightning steps if `ready % k == 0` and zeroes the gradients if `batch_idx % k == 0`. With a plain k both are right only for windows
    that start at a multiple of k; counted from `start` they are right for any sequence of windows. Lightning also divides the loss by k.

    Args:
        k, start: see above.
        count: what `Trainer.estimated_stepping_batches` should be, see `estimate`.
    """

    start: int
    count: PlannedCount | None

    def __new__(cls, k: int, start: int, count: PlannedCount | None = None) -> Window:
        window = super().__new__(cls, k)
        window.start, window.count = start, count
        return window

    def __rmod__(self, other: int) -> int:
        return (other - self.start) % int(self)

    def __rtruediv__(self, other: SupportsFloat) -> float:
        quotient = float(other) / int(self)
        return quotient if self.count is None else Quotient.of(quotient, self.count)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self), self.start)

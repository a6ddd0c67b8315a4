"""The micro-batches of one update, as the number that Lightning divides by."""

from __future__ import annotations

from typing import Any

__all__ = ["Window"]


class Window(int):
    """k micro-batches from batch index `start` on.

    Lightning asks `ready % k == 0` to step and `batch_idx % k == 0` to zero gradients, which holds only for windows that start at a
    multiple of k; counted from `start` both are right for any sequence of windows. As a number it is k, Lightning's divisor.
    """

    start: int

    def __new__(cls, k: int, start: int) -> Window:
        window = super().__new__(cls, k)
        window.start = start
        return window

    def __rmod__(self, other: int) -> int:
        return (other - self.start) % int(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self), self.start)

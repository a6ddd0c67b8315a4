"""A micro-batch of a plan: one forward and backward pass on one device."""

from __future__ import annotations

from dataclasses import dataclass

from noisescale.plans.plan import Update

__all__ = ["MicroBatch"]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass on one device.

    Args:
        update: the update that it belongs to.
        index: j, its index in the update, 0 to k - 1.
        position: the position of its first example in the stream of passes.
        size: n, its number of examples. 0 if its piece of the update is empty; a placeholder is then loaded, the fewest examples that the
            plan allows for.
    """

    update: Update
    index: int
    position: int
    size: int

    @property
    def is_last(self) -> bool:
        """Whether it is the last one before the optimizer steps."""
        return self.index == self.update.accumulate_grad_batches - 1

    @property
    def share(self) -> float:
        """n/B: what its mean loss is multiplied by, so that the gradients of the update add up to that of one big batch."""
        return self.size / self.update.effective_batch_size

    @property
    def lr_factor(self) -> float:
        """lr / lr0 of its update."""
        return self.update.lr_factor

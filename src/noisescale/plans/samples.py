"""Some updates of a plan, evenly distributed over the training."""

from __future__ import annotations

from collections.abc import Sequence

from noisescale.plans.plan import Plan, Stretch, Update

__all__ = ["Samples"]


class Samples:
    """Reads a plan, and keeps the first update of each of `parts` equal parts of the training.

    Args:
        end: when the training ends, in epochs.
        only_full: leave out the smaller windows at the ends of passes.

    Attributes:
        updates: what is kept.
    """

    def __init__(self, plan: Plan, end: float, parts: int, *, only_full: bool) -> None:
        self._plan, self._end, self._parts, self._only_full = plan, end, parts, only_full
        self._part, self._surely_in_part = -1, -1.0
        self.updates: list[Update] = []

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        surely, only_full = self._surely_in_part, self._only_full
        for stretch in chunk:
            if (stretch[5] < surely and stretch[4] == 1) or (only_full and stretch[6] != stretch[7]):
                continue
            self._keep(stretch)
            surely = self._surely_in_part

    def _part_of(self, epoch: float) -> int:
        return int(epoch / self._end * self._parts)

    def _keep(self, stretch: Stretch) -> None:
        """Keep the first update of each part that starts in `stretch`."""
        index = stretch.first_where(lambda epoch: self._part_of(epoch) > self._part, self._plan.num_examples)
        while index < stretch.updates:
            update = self._plan.update_in(stretch, index)
            self.updates.append(update)
            self._part = self._part_of(update.epoch)
            self._surely_in_part = (self._part + 1) / self._parts * self._end * (1 - 1e-9)
            index = stretch.first_where(lambda epoch: self._part_of(epoch) > self._part, self._plan.num_examples)

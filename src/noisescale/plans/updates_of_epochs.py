"""How many updates an epoch of a plan has. It is also the number of its all-reduces, see `PlanSummary.all_reduces_in_words`."""

from __future__ import annotations

from collections.abc import Sequence

from noisescale.plans.plan import Stretch

__all__ = ["UpdatesOfEpochs"]


class UpdatesOfEpochs:
    """Reads a plan, and counts the updates of its first and of its last epoch."""

    def __init__(self) -> None:
        self._starts: tuple[int, int] = 0, 0  # the first update of the second epoch, 0 as long as there is none; that of the last epoch
        self._stop = 0

    def __call__(self, chunk: Sequence[Stretch]) -> None:
        second, last = self._starts
        for stretch in chunk:
            if stretch[3] == 0:
                last = stretch[0]
                second = second or last
        self._starts = second, last
        self._stop = chunk[-1].step + chunk[-1].updates

    @property
    def first(self) -> int:
        """Updates of the first epoch."""
        return self._starts[0] or self._stop

    @property
    def last(self) -> int:
        """Updates of the last epoch."""
        return self._stop - self._starts[1]

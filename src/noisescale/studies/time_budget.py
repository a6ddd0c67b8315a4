"""Which branches fit into the time that is left. Plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from noisescale.measures.branch_options import BranchOptions

__all__ = ["Cost", "affordable"]

EARLY, LATE = 0.05, 0.75
"""When branches begin, in parts of the training. Later than that there is little left that a batch could change."""


@dataclass(frozen=True)
class Cost:
    """What branches cost.

    Attributes:
        speeds: batch size -> examples per second, for every size that is tried.
        trunk: examples per second of the training from which they branch.
        start: seconds that it takes to start a branch.
        rules: how many rules for the learning rate are tried.
    """

    speeds: Mapping[int, float]
    trunk: float
    start: float
    rules: int = 1

    def seconds(self, times: Sequence[float], seeds: int, length: int, num_examples: int) -> float:
        """Of a training up to the last of `times`, in epochs, and of branches of `length` examples of every size from each of them.

        The branches that break, and the larger ones that are then left out, cost about as much as those with half the rate, which tell
        the batch from the rate: neither is counted.
        """
        of_a_seed = sum(self.start + length / speed for speed in self.speeds.values())
        return times[-1] * num_examples / self.trunk + len(times) * self.rules * seeds * of_a_seed


def affordable(
    cost: Callable[[Sequence[float], int, int], float], seconds: float, epochs: int, num_examples: int, size: int, tolerance: float
) -> BranchOptions | None:
    """The most telling branches that take at most so many seconds; None if even the fewest take longer.

    Branches from an early and a late time come before many seeds, and many seeds before long branches.

    Args:
        cost: (times in epochs, seeds, examples of a branch) -> seconds.
        seconds: the time that is left.
        epochs, num_examples: of the training.
        size: B of the training.
        tolerance: of the branches.
    """
    usual = BranchOptions().length_of(num_examples, size)
    for times, seeds, part in _choices(epochs):
        length = max(round(usual * part), 8 * size)
        if cost(times, seeds, length) <= seconds:
            return BranchOptions(at=times, length=length / num_examples, seeds=seeds, tolerance=tolerance)
    return None


def _choices(epochs: int) -> Iterator[tuple[tuple[float, ...], int, float]]:
    """(times, seeds, part of the usual length of a branch), the most telling ones first."""
    for late in (LATE, 0.5, 0.25):
        for seeds, part in ((4, 1.0), (3, 1.0), (3, 0.5)):
            yield (EARLY * epochs, late * epochs), seeds, part
    for seeds, part in ((4, 1.0), (3, 1.0), (3, 0.5), (2, 0.5), (2, 0.25)):
        yield (EARLY * epochs,), seeds, part

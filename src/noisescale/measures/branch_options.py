"""What can be chosen about branches; checked before anything is trained. Plain numbers: no torch, no trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noisescale.errors import ConfigError, check_count, check_increasing, check_number
from noisescale.measures.branches import PARTS

__all__ = ["BranchOptions"]

EARLY_MIDDLE_LATE = (0.05, 0.25, 0.75)
"""The default times of the checkpoints, in parts of the training."""


@dataclass(frozen=True)
class BranchOptions:
    """Where branches begin, how long they are, and what they are compared by.

    Args:
        at: times in epochs, increasing, at each of which the training is saved and branched; None: after 5, 25 and 75 % of the training.
        length: of a branch, in epochs; it is rounded up, such that every batch size fits into it a whole number of times. None: half an
            epoch, or 128 B examples, whichever is more.
        sizes: batch sizes, increasing, of which the smallest is what the others are compared with; None: about B/4 and B/2, then B, 2 B,
            4 B, ..., up to half of the examples and to an eighth of a branch.
        seeds: branches of each size, which differ in the order of the examples and in the random numbers; at least 2.
        tolerance: the relative loss up to which nothing counts as lost, in (0, 10].
        gain_tolerance: the share of what the smallest batch gains in a branch up to which nothing counts as lost, in (0, 1]; the
            stricter one of the two holds.
        examples: training examples that the loss is evaluated on.

    Raises:
        ConfigError: a value is out of its range.
    """

    at: Sequence[float] | None = None
    length: float | None = None
    sizes: Sequence[int] | None = None
    seeds: int = 6
    tolerance: float = 0.2
    gain_tolerance: float = 0.5
    examples: int = 4096

    def __post_init__(self) -> None:
        if self.at is not None:
            _check_list("at", self.at, "epochs")
        if self.length is not None:
            check_number("length", self.length, above=0, unit="epochs", remedy="null: half an epoch, or 128 B examples")
        if self.sizes is not None:
            _check_list("sizes", self.sizes, "examples")
            for size in self.sizes:
                check_count("sizes", size, unit="examples")
            if len(self.sizes) < 2:
                raise ConfigError("sizes", list(self.sizes), "needs two or more, because the smallest is what the others are compared with")
        check_count("seeds", self.seeds, at_least=2, at_most=1000, remedy="the spread over seeds decides what is worse")
        check_number("tolerance", self.tolerance, above=0, at_most=10, remedy="0.2 is 20 % of the loss")
        remedy = "0.5 is half of what the loss falls by in a branch"
        check_number("gain_tolerance", self.gain_tolerance, above=0, at_most=1, remedy=remedy)
        check_count("examples", self.examples, unit="examples")

    def times(self, epochs: int) -> tuple[float, ...]:
        """The times of a training of so many epochs.

        Raises:
            ConfigError: one is beyond its end.
        """
        times = tuple(float(at) for at in (self.at if self.at is not None else [share * epochs for share in EARLY_MIDDLE_LATE]))
        if times[-1] > epochs:
            remedy = "branch earlier, or train longer"
            raise ConfigError("at", list(times), f"must be at most epochs={epochs}, when the training ends", remedy)
        return times

    def length_of(self, num_examples: int, size: int) -> int:
        """The least number of examples of a branch from a training with batch size `size`."""
        if self.length is None:
            return max(num_examples // 2, 16 * PARTS * size)
        return max(1, round(self.length * num_examples))


def _check_list(key: str, values: Any, unit: str) -> None:
    check_increasing(key, values, unit=unit)
    if not values:
        raise ConfigError(key, list(values), f"must be a list of {unit} that is not empty", f"for example {key}=[1,5]")

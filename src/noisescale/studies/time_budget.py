"""A budget of time, and which branches fit into what is left of it. Plain numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.files import write_atomically
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import PARTS

__all__ = ["Budget", "Cost", "affordable", "goes_on"]

EARLY, LATE = 0.05, 0.75
"""When branches begin, in parts of the training. Later than that there is little left that a batch could change."""

EXAMPLES = (4096, 2048, 1024, 512, 256)
"""How many examples the loss may be evaluated on: the most such that evaluations take no longer than the training."""


class Budget:
    """The time that measurements may take, over all the times that a study in a folder was begun.

    Args:
        seconds: in all.
        path: the file that keeps what was used.
        clock: seconds.

    Attributes:
        cut: the work that was not begun for want of time, in order.
    """

    def __init__(self, seconds: float, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._path, self._clock = seconds, path, clock
        self.cut: list[str] = []
        try:
            self._before = float(json.loads(path.read_text())["used"]) if path.exists() else 0.0
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError("file", path, "is damaged", "delete it, and the time that was used is forgotten") from error
        self._began = clock()

    @property
    def used(self) -> float:
        """Seconds."""
        return self._before + self._clock() - self._began

    @property
    def left(self) -> float:
        """Seconds; below 0 if a measurement has taken longer."""
        return self.seconds - self.used

    def may_begin(self, what: str, seconds: float = 0.0) -> bool:
        """Whether there is time for a piece of work that may take so many seconds; what was used so far is written down."""
        self.save()
        if self.left > max(seconds, 0.0):
            return True
        if what not in self.cut:
            self.cut.append(what)
        return False

    def save(self) -> None:
        """Write down what was used so far."""
        write_atomically(self._path, json.dumps({"used": round(self.used, 3)}) + "\n")


@dataclass(frozen=True)
class Cost:
    """What branches cost.

    Attributes:
        speeds: batch size -> examples per second, for every size that is tried.
        trunk: examples per second of the training from which they branch.
        start: seconds that it takes to start a branch.
        rules: how many rules for the learning rate are tried.
        evaluation: (seconds, seconds per example) of an evaluation of the loss, of which a branch has 8.
    """

    speeds: Mapping[int, float]
    trunk: float
    start: float
    rules: int = 1
    evaluation: tuple[float, float] = (0.0, 0.0)

    def evaluated(self, examples: int) -> float:
        """Seconds of one evaluation."""
        return self.evaluation[0] + self.evaluation[1] * examples

    def examples(self, length: int, num_examples: int) -> int:
        """How many examples the loss is evaluated on: the most with which it takes no longer than the training of a branch."""
        most = [n for n in EXAMPLES if PARTS * self.evaluated(min(n, num_examples)) <= length / self.trunk]
        return most[0] if most else EXAMPLES[-1]

    def seconds(self, times: Sequence[float], seeds: int, length: int, num_examples: int, examples: int | None = None) -> float:
        """Of a training up to the last of `times`, in epochs, and of branches of `length` examples of every size from each of them.

        Before the branches of a time, the gradients of the examples are computed once. The branches that break, and the larger ones that
        are then left out, cost about as much as those with half the rate, which tell the batch from the rate: neither is counted.
        """
        counted = min(num_examples, self.examples(length, num_examples) if examples is None else examples)
        evaluated = PARTS * self.evaluated(counted)
        of_a_seed = sum(self.start + length / speed + evaluated for speed in self.speeds.values())
        probe = self.start + self.evaluated(counted) + counted / min(self.speeds.values())
        return times[-1] * num_examples / self.trunk + len(times) * (probe + self.rules * seeds * of_a_seed)


def affordable(
    cost: Cost, seconds: float, epochs: int, num_examples: int, size: int, tolerance: float, known: BranchOptions | None = None
) -> BranchOptions | None:
    """The most telling branches that take at most so many seconds; None if even the fewest take longer, or tell no more than those known.

    Branches from an early and a late time come before many seeds, and many seeds before long branches.

    Args:
        cost: of the branches.
        seconds: the time that is left.
        epochs, num_examples: of the training.
        size: B of the training.
        tolerance: of the branches.
        known: those that were trained before. Branches that go on with them, see `goes_on`, cost only what is added.
    """
    usual = BranchOptions().length_of(num_examples, size)
    for times, seeds, part in _choices(epochs):
        length = max(round(usual * part), PARTS * size)
        examples = cost.examples(length, num_examples)
        options: dict[str, Any] = {"length": length / num_examples, "sizes": sorted(cost.speeds), "examples": examples}
        chosen = BranchOptions(at=times, seeds=seeds, tolerance=tolerance, **options)
        if known is not None and goes_on(known, chosen) and goes_on(chosen, known):
            return None
        paid = 0.0
        if known is not None and known.at is not None and goes_on(known, chosen):
            paid = cost.seconds(known.at, known.seeds, known.length_of(num_examples, size), num_examples, known.examples)
        if cost.seconds(times, seeds, length, num_examples, examples) - paid <= seconds:
            return chosen
    return None


def goes_on(before: BranchOptions, after: BranchOptions) -> bool:
    """Whether what was trained with `before` is a part of `after`: the same branches, perhaps with more seeds, or from later times, too."""
    first, then = tuple(before.at or ()), tuple(after.at or ())
    same = replace(before, at=after.at, seeds=after.seeds) == after
    return same and then[: len(first)] == first and before.seeds <= after.seeds


def _choices(epochs: int) -> Iterator[tuple[tuple[float, ...], int, float]]:
    """(times, seeds, part of the usual length of a branch), the most telling ones first."""
    for late in (LATE, 0.5, 0.25):
        for seeds, part in ((24, 1.0), (12, 1.0), (6, 1.0), (4, 1.0), (3, 1.0), (3, 0.5)):
            yield (EARLY * epochs, late * epochs), seeds, part
    for seeds, part in ((12, 1.0), (6, 1.0), (4, 1.0), (3, 1.0), (3, 0.5), (2, 0.5), (2, 0.25)):
        yield (EARLY * epochs,), seeds, part

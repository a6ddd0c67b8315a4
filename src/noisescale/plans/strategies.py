"""Batch strategies: (clock, schedule factor, N) -> (B, lr / lr0). Pure; sizes are effective, over all micro-batches and devices.

A strategy decides how many examples an update uses; `plan` decides where a pass ends and how an update is cut into micro-batches.
The strategies here follow the clock alone; those that carry the schedule's noise are in `duality`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

from noisescale.errors import ConfigError, check_choice, check_count, check_increasing, check_number
from noisescale.plans.noise import LR_RULES, batch_noise, lr_scaling
from noisescale.schedules import milestones_passed, next_milestone
from noisescale.schedules.promises import keeps_promise

__all__ = [
    "LAST_WINDOW",
    "BatchChoice",
    "BatchStrategy",
    "Fixed",
    "Full",
    "Linear",
    "MultiStep",
    "check_size",
    "constant_choice_until",
    "realisable",
    "sizes_follow_clock",
]

LAST_WINDOW = ("carry", "partial", "drop", "spread")


class BatchChoice(NamedTuple):
    """B, in examples, and lr / lr0, which includes the schedule."""

    size: int
    lr_factor: float


@dataclass(frozen=True)
class BatchStrategy(ABC):
    """B(t), and lr / lr0 = w(t) s(t) (B/B_ref)^p, where w is the warm-up.

    Args:
        last: carry | partial | drop | spread: what happens to the last window of a pass, see `plan.Plan`.
        match_last: whether a smaller last window of a pass gets a lower learning rate, so that it has the same noise as a full window.
        lr_rule: none (p = 0) | linear (p = 1) | sqrt (p = 1/2). B is the planned size, even in a smaller last window of a pass.
        reference_size: B_ref, the batch size that the optimizer's learning rate is quoted for; None: no scaling, only with lr_rule=none.
        micro_batch_size: examples that one device processes at once; the batch must be a multiple of it. None: the plan decides.
    """

    size_follows_clock: ClassVar[bool] = False
    """Whether B depends on the clock and N alone, and not on the factor of the schedule; False where nothing is known."""

    _: KW_ONLY
    last: str = "partial"
    match_last: bool = False
    lr_rule: str = "none"
    reference_size: int | None = None
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("last", self.last, LAST_WINDOW)
        if not isinstance(self.match_last, bool):
            raise ConfigError("match_last", self.match_last, "must be true or false")
        check_choice("lr_rule", self.lr_rule, LR_RULES)
        if self.reference_size is not None:
            check_count("reference_size", self.reference_size, unit="examples")
        elif self.lr_rule != "none":
            raise ConfigError(
                "lr_rule", self.lr_rule, "needs a reference_size, the batch that lr is quoted for", "for example reference_size=128"
            )
        if self.micro_batch_size is not None:
            check_count("micro_batch_size", self.micro_batch_size, unit="examples")

    @property
    def moves_rate(self) -> bool:
        """Whether lr / lr0 differs from the schedule."""
        return self.lr_rule != "none" or self.match_last

    @abstractmethod
    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        """B, in examples, 1 to N, of an update that starts at `epoch`; `factor` is the schedule there, without its warm-up."""

    @abstractmethod
    def check(self, num_examples: int) -> None:
        """Raise `ConfigError` if the strategy cannot be carried out on N examples."""

    def check_replacement(self) -> None:  # noqa: B027 - most strategies can
        """Raise `ConfigError` if the strategy cannot be carried out with examples that are drawn with replacement."""

    @property
    def monitors(self) -> frozenset[str]:
        """The names of what has to be measured during a training for the batch to be known further than to the end of the epoch."""
        return frozenset()

    def observed(self, epoch: float, values: Mapping[str, float]) -> BatchStrategy:
        """This strategy after the values of `monitors` were read: it may differ from `epoch` on, but not before."""
        return self

    def constant_until(self, epoch: float) -> float:
        """A time T up to which the clock changes nothing: for every t with `epoch` <= t < T the choice depends on the schedule alone.

        It may be earlier than the change, and it is `epoch` itself, or less, where nothing is known, see `Schedule.constant_until`.
        """
        return epoch

    def lr_factor(self, epoch: float, factor: float, size: int, num_examples: int) -> float:
        """lr / lr0 without the warm-up, for an update of `size` examples that starts at `epoch`."""
        return factor if self.reference_size is None else factor * self._quoted(size)

    def resized(self, planned: int, size: int, num_examples: int, match: str = "exact") -> float:
        """n(planned) / n(size), n(B) as `match` says: the factor that keeps g if a pass has only `size` of `planned` examples left."""
        return batch_noise(match, num_examples, planned) / batch_noise(match, num_examples, size)

    def __call__(self, epoch: float, factor: float, num_examples: int, warmup: float = 1.0) -> BatchChoice:
        """The choice for an update that starts at `epoch`, where the schedule is warmup * factor."""
        size = self.size_at(epoch, factor, num_examples)
        return BatchChoice(size, warmup * self.lr_factor(epoch, factor, size, num_examples))

    def _quoted(self, size: int) -> float:
        return 1.0 if self.reference_size is None else lr_scaling(self.lr_rule, size, self.reference_size)


def constant_choice_until(strategy: BatchStrategy, epoch: float) -> float:
    """`BatchStrategy.constant_until`, unless a derived class has changed what that is about; then `epoch`."""
    methods = ("__call__", "size_at", "lr_factor", "resized", "level")
    return strategy.constant_until(epoch) if keeps_promise(type(strategy), "constant_until", methods) else epoch


def sizes_follow_clock(strategy: BatchStrategy) -> bool:
    """`BatchStrategy.size_follows_clock`, unless a derived class has changed what that is about."""
    return strategy.size_follows_clock and keeps_promise(type(strategy), "size_follows_clock", ("__call__", "size_at"))


def check_size(size: int, num_examples: int, micro: int | None, key: str = "size") -> None:
    """Raise `ConfigError` unless B = `size` fits N and the fixed micro-batch, if there is one."""
    if size > num_examples:
        raise ConfigError(key, size, f"must be at most N = {num_examples}, the examples of one pass", "use batch=full for all of them")
    if micro is not None and size % micro:
        raise ConfigError(key, size, f"must be a multiple of micro_batch_size={micro}", f"for example {max(1, size // micro) * micro}")


@dataclass(frozen=True)
class Fixed(BatchStrategy):
    """B(t) = size.

    Args:
        size: B, in examples, 1 to N.
    """

    size_follows_clock: ClassVar[bool] = True

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("size", self.size, unit="examples")

    def check(self, num_examples: int) -> None:
        check_size(self.size, num_examples, self.micro_batch_size)

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return self.size

    def constant_until(self, epoch: float) -> float:
        return math.inf


@dataclass(frozen=True)
class Full(BatchStrategy):
    """B(t) = N: gradient descent, with one update per pass and g = 0; a bootstrap sample and g = lr if drawn with replacement."""

    size_follows_clock: ClassVar[bool] = True

    def check(self, num_examples: int) -> None:
        micro = self.micro_batch_size
        if micro is not None and num_examples % micro:
            remedy = "leave it at null; max_micro_batch_size limits the memory"
            raise ConfigError("micro_batch_size", micro, f"must divide N = {num_examples}, the full batch", remedy)

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return num_examples

    def constant_until(self, epoch: float) -> float:
        return math.inf


@dataclass(frozen=True)
class MultiStep(BatchStrategy):
    """B(t) = min(max_size, size * factor^(number of milestones <= t)), rounded: the batch grows in steps.

    Args:
        size: B at t = 0, in examples, 1 to N.
        milestones: epochs at which B grows, > 0, strictly increasing.
        factor: growth factor of each step, >= 1.
        max_size: cap of B, in examples, >= size; None: N.

    Source: Smith et al. 1711.00489, section 5.1 (x5 at each milestone where the learning rate would have been divided by 5).
    """

    size_follows_clock: ClassVar[bool] = True

    size: int
    milestones: Sequence[float]
    factor: float
    max_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("size", self.size, unit="examples")
        check_increasing("milestones", self.milestones, unit="epochs")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        check_number("factor", self.factor, at_least=1)
        if self.max_size is not None:
            check_count("max_size", self.max_size, at_least=self.size, unit="examples")

    def check(self, num_examples: int) -> None:
        check_size(self.size, num_examples, self.micro_batch_size)
        if self.max_size is not None:
            check_size(self.max_size, num_examples, self.micro_batch_size, "max_size")

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        grown = self.size * self.factor ** milestones_passed(self.milestones, epoch)
        return realisable(grown, self.max_size or num_examples, self.micro_batch_size)

    def constant_until(self, epoch: float) -> float:
        return next_milestone(self.milestones, epoch)


@dataclass(frozen=True)
class Linear(BatchStrategy):
    """B(t) = size + (max_size - size) min(t/T, 1), rounded: a linear ramp over T = epochs.

    Args:
        size: B at t = 0, in examples, 1 to N.
        max_size: B from T on, in examples, 1 to N; if it is smaller than size, B falls.
        epochs: T, > 0.
    """

    size_follows_clock: ClassVar[bool] = True

    size: int
    max_size: int
    epochs: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("size", self.size, unit="examples")
        check_count("max_size", self.max_size, unit="examples")
        check_number("epochs", self.epochs, above=0, unit="epochs")

    def check(self, num_examples: int) -> None:
        check_size(self.size, num_examples, self.micro_batch_size)
        check_size(self.max_size, num_examples, self.micro_batch_size, "max_size")

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        ramp = self.size + (self.max_size - self.size) * min(epoch / self.epochs, 1.0)
        return realisable(ramp, num_examples, self.micro_batch_size)

    def constant_until(self, epoch: float) -> float:
        return math.inf if epoch >= self.epochs else epoch


def realisable(size: float, at_most: int, multiple: int | None) -> int:
    """The whole number of examples in [1, at_most] that is nearest to `size`; a multiple of `multiple` if one is given and fits."""
    if multiple is None:  # the same without calls: it is asked once per update
        steps = at_most if size >= at_most else round(size)
        return steps if steps > 1 else 1
    step = min(multiple, at_most)
    steps = min(round(min(size, float(at_most)) / step), at_most // step)
    return max(1, steps) * step

"""Batch strategies that are decided during the training, from what was measured in the epochs before.

A decision is taken between two passes, and holds for the whole next one. The strategy with its `history` is a function of the clock like
any other, so a plan is known to the end of the epoch, and what was decided never changes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import ClassVar

from noisescale.errors import check_choice, check_count, check_number
from noisescale.plans.strategies import BatchStrategy, check_size, realisable
from noisescale.schedules.plateau import Reading, Stall, check_monitor

__all__ = ["GRADIENT_NOISE_SCALE", "LEAST_NOISE_SCALE", "FollowNoise", "GrowOnPlateau"]

GRADIENT_NOISE_SCALE, LEAST_NOISE_SCALE = "noise/gns", "noise/gns_low"
"""The names of B_simple = tr(Sigma)/|G|^2 and of the lower end of its interval, as `callbacks.GradientNoiseScale` measures them."""


@dataclass(frozen=True)
class FollowNoise(BatchStrategy):
    """B = ratio B_simple (follow=linear), or sqrt(ratio B_simple) (follow=sqrt): the batch follows the gradient noise scale.

    It starts at `size`. At the end of each epoch it moves to the target, but at most by the factor `max_change`, up or down, and only
    within [min_size, max_size]; the fraction that is rounded away is remembered. Where only a lower end of B_simple is known, because |G|^2
    is lost in the noise, B moves up to that, and not down. Where nothing is known, it stays.

    Args:
        size: B at the start, in examples, min_size to max_size.
        follow: linear | sqrt.
        ratio: r > 0: a number for linear; examples for sqrt, where it is how many examples an update saved is worth.
        min_size: the smallest B, in examples, >= 1.
        max_size: the largest B, in examples; None: N/10, or `size` if that is larger.
        max_change: the largest factor from one epoch to the next, > 1.
        history: (epoch, low, high) of the measurements so far, see `observed`: low = high = B_simple, or high = inf.

    Not to be confused with `Dual`, whose batch follows the SGD noise scale g of a schedule: B_simple is measured, and overestimates the
    batch up to which nothing is lost, see docs/gradient-noise.md.
    Source: McCandlish et al. 1812.06162.
    """

    size_follows_clock: ClassVar[bool] = True

    size: int
    follow: str = "linear"
    ratio: float = 1.0
    min_size: int = 1
    max_size: int | None = None
    max_change: float = 2.0
    _: KW_ONLY
    history: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("follow", self.follow, ("linear", "sqrt"))
        check_number("ratio", self.ratio, above=0.0)
        check_number("max_change", self.max_change, above=1.0)
        check_count("min_size", self.min_size, unit="examples")
        check_count("size", self.size, at_least=self.min_size, at_most=self.max_size, unit="examples")
        if self.max_size is not None:
            check_count("max_size", self.max_size, at_least=self.min_size, unit="examples", remedy="null for N/10")

    def check(self, num_examples: int) -> None:
        for key in ("size", "max_size"):
            if getattr(self, key) is not None:
                check_size(getattr(self, key), num_examples, self.micro_batch_size, key)

    @property
    def monitors(self) -> frozenset[str]:
        return frozenset({GRADIENT_NOISE_SCALE, LEAST_NOISE_SCALE})

    def observed(self, epoch: float, values: Mapping[str, float]) -> FollowNoise:
        value, least = (values.get(name, math.nan) for name in (GRADIENT_NOISE_SCALE, LEAST_NOISE_SCALE))
        if math.isnan(value) and not math.isfinite(least):
            return self
        return replace(self, history=(*self.history, (epoch, least, math.inf) if math.isnan(value) else (epoch, value, value)))

    def cap(self, num_examples: int) -> int:
        """The largest batch, in examples."""
        return max(self.size, num_examples // 10) if self.max_size is None else self.max_size

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        grown = self._sizes(num_examples)[self._passed(epoch)]
        return realisable(grown, self.cap(num_examples), self.micro_batch_size)

    def constant_until(self, epoch: float) -> float:
        passed = self._passed(epoch)
        return self.history[passed][0] if passed < len(self.history) else math.inf

    def _passed(self, epoch: float) -> int:
        return bisect_right(self.history, epoch, key=lambda reading: reading[0])

    def _sizes(self, num_examples: int) -> list[float]:
        """B before each of the readings and after the last, not rounded."""
        if num_examples not in self._known:
            highest, sizes = float(self.cap(num_examples)), [float(self.size)]
            for _, low, high in self.history:
                now = sizes[-1]
                target = min(max(now, self._followed(low)), self._followed(high))
                target = min(max(target, now / self.max_change), now * self.max_change)
                sizes.append(min(max(target, self.min_size), highest))
            self._known[num_examples] = sizes
        return self._known[num_examples]

    def _followed(self, noise_scale: float) -> float:
        return self.ratio * noise_scale if self.follow == "linear" else math.sqrt(max(0.0, self.ratio * noise_scale))

    @cached_property
    def _known(self) -> dict[int, list[float]]:
        return {}


@dataclass(frozen=True)
class GrowOnPlateau(BatchStrategy):
    """B = size factor^k after k stalls of a metric, up to max_size; from there on lr = lr0 B / (size factor^k).

    So each stall divides lr/B by `factor`: by the batch as long as it can grow, then by the learning rate. It is what one does by hand in
    dividing the learning rate when the validation error stops improving, carried by the batch. `Dual` under the schedule `Plateau` is the
    same with N/B - 1 in place of N/B, and with a share of the change in the learning rate if `growth` is below 1.

    Args:
        size: B at the start, in examples, 1 to max_size.
        factor: > 1: the growth at each stall, and so the largest from one epoch to the next.
        max_size: the largest B, in examples; None: N/10, or `size` if that is larger.
        monitor: the metric, such as val/loss.
        mode, patience, threshold, cooldown: see `schedules.plateau.Stall`.
        history: the readings so far, see `observed`.

    Sources: Krizhevsky et al. 2012, section 5; Smith et al. 1711.00489 for the batch in place of the learning rate.
    """

    size_follows_clock: ClassVar[bool] = True

    size: int
    factor: float = 2.0
    max_size: int | None = None
    monitor: str = "val/loss"
    mode: str = "min"
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    _: KW_ONLY
    history: tuple[Reading, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("size", self.size, unit="examples")
        check_number("factor", self.factor, above=1.0)
        check_monitor(self.monitor)
        if self.max_size is not None:
            check_count("max_size", self.max_size, at_least=self.size, unit="examples", remedy="null for N/10")
        self._stalls  # noqa: B018 - checks the other arguments

    def check(self, num_examples: int) -> None:
        for key in ("size", "max_size"):
            if getattr(self, key) is not None:
                check_size(getattr(self, key), num_examples, self.micro_batch_size, key)

    @property
    def moves_rate(self) -> bool:
        return True

    @property
    def monitors(self) -> frozenset[str]:
        return frozenset({self.monitor})

    def observed(self, epoch: float, values: Mapping[str, float]) -> GrowOnPlateau:
        if self.monitor not in values:
            return self
        return replace(self, history=(*self.history, (epoch, values[self.monitor])))

    def cap(self, num_examples: int) -> int:
        """The largest batch, in examples."""
        return max(self.size, num_examples // 10) if self.max_size is None else self.max_size

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return realisable(self._grown(epoch), self.cap(num_examples), self.micro_batch_size)

    def lr_factor(self, epoch: float, factor: float, size: int, num_examples: int) -> float:
        return super().lr_factor(epoch, factor, size, num_examples) * size / self._grown(epoch)

    def constant_until(self, epoch: float) -> float:
        passed = bisect_right(self._stalls, epoch)
        return self._stalls[passed] if passed < len(self._stalls) else math.inf

    def _grown(self, epoch: float) -> float:
        stalls = min(bisect_right(self._stalls, epoch), _MOST / math.log(self.factor))
        return self.size * math.pow(self.factor, stalls)

    @cached_property
    def _stalls(self) -> list[float]:
        return Stall(self.mode, self.patience, self.threshold, self.cooldown).epochs(self.history)


_MOST = 600.0
"""exp(600) times the largest size is still a float."""

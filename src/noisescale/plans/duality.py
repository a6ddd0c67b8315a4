"""Batch strategies that carry the schedule's noise, and the counterpart of any plan: the same noise carried the other way.

The noise is lr n(B)^p, see `noise.batch_noise`, with p = 1 for SGD and 1/2 for adaptive optimizers. Its target is s(t) times its value at
(lr0, B0), where s is the schedule without its warm-up; the warm-up multiplies the learning rate, whatever the batch does. B is a whole
number and has a cap, so n(B) is only close to the value it should have. The learning rate makes up for the difference, so that the noise
meets its target in every update.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, lru_cache
from typing import ClassVar

from noisescale.errors import ConfigError, check_choice, check_count, check_number
from noisescale.plans.noise import NOISE_MATCHES, NOISE_RULES, batch_noise, batch_size_with, dual_rule_of
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, check_size, constant_choice_until, realisable
from noisescale.schedules import Cyclic, Schedule, constant_until, warmup_and_rest

__all__ = ["CyclicBatch", "Dual", "Matched", "counterpart", "resolve_rule"]


@dataclass(frozen=True)
class Matched(BatchStrategy):
    """lr = lr0 l(t) (n(B0)/n(B))^p: whatever B is, the noise lr n(B)^p is l(t) times its value at (lr0, B0).

    Args:
        size: B0, in examples, 1 to N - 1: the batch size at l = 1.
        rule: sgd (p = 1) | adaptive (p = 1/2); None: chosen by the optimizer, see `resolve_rule`.
        match: exact (n = N/B - 1) | ratio (n = N/B), see `noise.batch_noise`.
        match_last: as in every strategy, but true by default: a smaller last window also meets its target.
        reference_size, lr_rule: as in every strategy, but lr0 is scaled once, by (B0/B_ref)^p.
    """

    size: int
    _: KW_ONLY
    match_last: bool = True
    rule: str | None = None
    match: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("size", self.size, unit="examples")
        if self.rule is not None:
            check_choice("rule", self.rule, NOISE_RULES)
        check_choice("match", self.match, NOISE_MATCHES)

    @property
    def moves_rate(self) -> bool:
        return True

    @abstractmethod
    def level(self, epoch: float, factor: float) -> float:
        """l(t): the noise relative to that at (lr0, B0); `factor` is the value of the schedule without its warm-up."""

    def check(self, num_examples: int) -> None:
        if self.rule is None:
            raise ConfigError("rule", "null", "there is no optimizer to take it from", "set it to sgd or adaptive")
        check_size(self.size, num_examples, self.micro_batch_size)
        if self.size == num_examples:
            raise ConfigError("size", self.size, f"must be below N = {num_examples}: a full batch has no noise to match", "use batch=full")

    def check_replacement(self) -> None:
        if self.match == "exact":
            problem = "keeps lr (N/B - 1), the noise of batches drawn without replacement"
            raise ConfigError("match", "exact", problem, "set it to ratio, which is exact with replacement")

    def lr_factor(self, epoch: float, factor: float, size: int, num_examples: int) -> float:
        quoted = 1.0 if self.reference_size is None else self._quoted(self.size)
        if size == num_examples and self.match == "exact":  # no noise, chosen only at level 0: no learning rate gives it any
            return quoted
        return quoted * self.level(epoch, factor) * _power_of_ratio(self.match, self._exponent, num_examples, self.size, size)

    def resized(self, planned: int, size: int, num_examples: int, match: str = "exact") -> float:
        """(n(planned) / n(size))^p, with the n(B) of this strategy."""
        return _power_of_ratio(self.match, self._exponent, num_examples, planned, size)

    @cached_property
    def _exponent(self) -> float:
        """p; never needed while the rule is still open, see `check`."""
        assert self.rule is not None
        return NOISE_RULES[self.rule]

    def _size_with(self, share: float, num_examples: int, cap: int) -> int:
        """The B, at most `cap`, whose n(B) is nearest to share^(1/p) n(B0); the cap itself if the noise should be 0."""
        if share <= 0.0:
            return realisable(cap, cap, self.micro_batch_size)
        if self.match == "exact":
            cap -= cap == num_examples  # a full batch has no noise, and here some is needed
        target = batch_noise(self.match, num_examples, self.size) * share ** (1.0 / self._exponent)
        return realisable(batch_size_with(self.match, num_examples, target), cap, self.micro_batch_size)


@dataclass(frozen=True)
class Dual(Matched):
    """n(B) = n(B0) s^(growth/p), lr = lr0 s^(1 - growth): the noise is s(t) times what it was at (lr0, B0).

    For SGD and exact: B = N / (1 + (N/B0 - 1) s^growth), so that g(t) = s(t) g0. For ratio: B = B0 s^(-growth/p).
    growth = 0 changes only the learning rate, 1 only the batch. B is rounded to a whole number of examples (of micro-batches, if their size
    is fixed) and capped; the learning rate makes up for both.

    Args:
        size: B0, in examples, 1 to N - 1: the batch size at s = 1.
        growth: in [0, 1]: the share of the change in noise, on a logarithmic scale, that the batch carries.
        max_size: cap of B, in examples, B0 to N; None: N/10 (Smith et al.), or B0 if that is larger.

    Not to be confused with scaling the learning rate with the batch (`lr_rule`), which keeps the noise constant.
    Sources: Smith et al. 1711.00489; adaptive, ratio and growth 1/2 is Seesaw, 2510.14717, but continuous instead of in steps.
    """

    growth: float = 1.0
    max_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("growth", self.growth, at_least=0, at_most=1, remedy="0 decays the learning rate, 1 grows the batch")
        if self.max_size is not None:
            check_count("max_size", self.max_size, at_least=self.size, unit="examples", remedy="the batch starts at `size`; null for N/10")

    def check(self, num_examples: int) -> None:
        super().check(num_examples)
        if self.max_size is not None:
            check_size(self.max_size, num_examples, self.micro_batch_size, "max_size")

    def cap(self, num_examples: int) -> int:
        """The largest batch, in examples."""
        if self.max_size is not None:
            return self.max_size
        tenth = num_examples // 10
        return tenth if tenth > self.size else self.size

    def level(self, epoch: float, factor: float) -> float:
        return factor

    def constant_until(self, epoch: float) -> float:
        return math.inf

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        cap = self.cap(num_examples)
        if self.match == "exact" and self.growth < 1 and factor <= 0.0:
            cap = min(cap, num_examples - 1)  # `lr_factor` leaves lr at lr0 where B = N, but with growth < 1 it has to go to 0
        return self._size_with(factor**self.growth, num_examples, cap)


@dataclass(frozen=True)
class CyclicBatch(Matched):
    """n(B) = n(B0) c(t)^(1/p), where c is the wave of `schedules.Cyclic` between base_factor and 1; the learning rate follows the schedule.

    The dual of `schedules.Cyclic` at a constant learning rate: B is B0 where the wave has its peak. A triangle in the learning rate is a
    hyperbola in B: halfway between .001 and .005, B = 213 for B0 = 128 and N = 50 000, not 384. Where the height of the wave decays, the
    smallest batch of each cycle grows and the largest stays. For ratio and SGD the largest is B0/base_factor.

    Args:
        size: B0, in examples, 1 to N - 1: the smallest batch size of the first cycle.
        step_size_up: epochs from the largest batch to the smallest (wave=square: epochs at the smallest), > 0.
        step_size_down: epochs back to the largest (wave=square: epochs at the largest), > 0; None: the same as step_size_up.
        mode: triangular | triangular2 | exp_range: how the height of the wave decays.
        gamma: for exp_range, the factor per epoch, in (0, 1].
        base_factor: the lower bound of c, in (0, 1].
        wave: triangle | square.

    Source: Jastrzebski et al. 1711.04623, who cycle between 128 and 640.
    """

    size_follows_clock: ClassVar[bool] = True

    step_size_up: float
    step_size_down: float | None = None
    mode: str = "triangular"
    gamma: float = 1.0
    base_factor: float = 0.2
    wave: str = "triangle"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("base_factor", self.base_factor, above=0, at_most=1)
        _ = self._cycle

    @cached_property
    def _cycle(self) -> Cyclic:
        return Cyclic(self.step_size_up, self.step_size_down, self.mode, self.gamma, self.base_factor, 1.0, self.wave)

    def level(self, epoch: float, factor: float) -> float:
        return factor * self._cycle(epoch)

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return self._size_with(self._cycle(epoch), num_examples, num_examples)

    def constant_until(self, epoch: float) -> float:
        return self._cycle.constant_until(epoch)


@lru_cache  # most updates have the same sizes as the one before
def _power_of_ratio(match: str, exponent: float, num_examples: int, size: int, other: int) -> float:
    """(n(size) / n(other))^exponent."""
    return float((batch_noise(match, num_examples, size) / batch_noise(match, num_examples, other)) ** exponent)


def resolve_rule(strategy: BatchStrategy, optimizer: str | None) -> BatchStrategy:
    """`strategy`, with an open rule set to the rule of the optimizer, which is given by its class name.

    Raises:
        ConfigError: the rule is open, and there is no optimizer yet.
    """
    if isinstance(strategy, Matched) and strategy.rule is None:
        if optimizer is None:
            problem = "the optimizer decides it, and with it the number of updates, but is not built yet"
            raise ConfigError("rule", None, problem, "give the strategy rule='sgd', for SGD and Adam, or 'adaptive'")
        return replace(strategy, rule=dual_rule_of(optimizer))
    return strategy


@dataclass(frozen=True)
class _Level(Schedule):
    """The noise of a strategy under a schedule, relative to that at (lr0, B0): the learning-rate schedule for the same noise at B0."""

    level: Callable[[float, float], float]
    schedule: Callable[[float], float]
    strategy: BatchStrategy

    def __call__(self, epoch: float) -> float:
        return math.prod(self.parts(epoch))

    def parts(self, epoch: float) -> tuple[float, float]:
        warmup, factor = warmup_and_rest(self.schedule, epoch)
        return warmup, self.level(epoch, factor)

    def constant_until(self, epoch: float) -> float:
        return min(constant_until(self.schedule, epoch), constant_choice_until(self.strategy, epoch))


def counterpart(plan: Plan, rule: str = "sgd") -> Plan | None:
    """The plan with the same noise carried the other way: by the learning rate if `plan` carries it by the batch, otherwise by the batch.

    The counterpart of a constant batch is its dual (growth 1, cap N/10). The counterpart of any other strategy keeps the batch constant, at
    its size at the start (`Matched`: at level 1). None if there is no noise to carry, because the batch is N.

    Args:
        rule: sgd | adaptive: which noise to keep, for a strategy that has no rule of its own.
    """
    strategy, n = plan.strategy, plan.num_examples
    common = {key: getattr(strategy, key) for key in ("last", "match_last", "lr_rule", "reference_size", "micro_batch_size")}
    if isinstance(strategy, Matched):
        return replace(plan, strategy=Fixed(strategy.size, **common), schedule=_Level(strategy.level, plan.schedule, strategy))
    first = strategy.size_at(0.0, 1.0, n)
    if first >= n:
        return None
    if isinstance(strategy, Fixed):
        return replace(plan, strategy=Dual(first, rule=rule, match=plan.match, **common))

    def level(epoch: float, factor: float) -> float:
        size = strategy.size_at(epoch, factor, n)
        share = batch_noise(plan.match, n, size) / batch_noise(plan.match, n, first)
        return strategy.lr_factor(epoch, factor, size, n) * float(share ** NOISE_RULES[rule])

    common |= {"lr_rule": "none", "reference_size": None}  # the level includes them already
    return replace(plan, strategy=Fixed(first, **common), schedule=_Level(level, plan.schedule, strategy))

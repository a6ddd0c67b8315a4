"""Schedules that start at 1 and fall: step, multi-step, inverse, exponential, polynomial, linear, cosine, WSD; and the constant one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from noisescale.errors import ConfigError, check_choice, check_increasing, check_number
from noisescale.schedules.schedule import (
    Schedule,
    check_horizon,
    completed,
    half_cosine,
    milestones_passed,
    next_milestone,
    require_horizon,
    shortly_before,
)

__all__ = ["WSD", "Constant", "Cosine", "Exponential", "Inverse", "Linear", "MultiStep", "Polynomial", "Step"]


@dataclass(frozen=True)
class Constant(Schedule):
    """s(t) = 1."""

    def __call__(self, epoch: float) -> float:
        return 1.0

    def constant_until(self, epoch: float) -> float:
        return math.inf


@dataclass(frozen=True)
class Step(Schedule):
    """s(t) = gamma^floor(t / step_size); torch's StepLR.

    Args:
        step_size: epochs between two cuts, > 0.
        gamma: the factor of each cut, in (0, 1].
    """

    step_size: float
    gamma: float

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size, above=0, unit="epochs")
        check_number("gamma", self.gamma, above=0, at_most=1)

    def __call__(self, epoch: float) -> float:
        return float(self.gamma ** completed(epoch, self.step_size))

    def constant_until(self, epoch: float) -> float:
        return shortly_before((completed(epoch, self.step_size) + 1) * self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """s(t) = gamma^(number of milestones <= t); torch's MultiStepLR.

    Args:
        milestones: epochs of the cuts, > 0, strictly increasing.
        gamma: the factor of each cut, in (0, 1].
    """

    milestones: Sequence[float]
    gamma: float

    def __post_init__(self) -> None:
        check_increasing("milestones", self.milestones, unit="epochs")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        check_number("gamma", self.gamma, above=0, at_most=1)

    def __call__(self, epoch: float) -> float:
        return float(self.gamma ** milestones_passed(self.milestones, epoch))

    def constant_until(self, epoch: float) -> float:
        return next_milestone(self.milestones, epoch)


@dataclass(frozen=True)
class Inverse(Schedule):
    """s(t) = 1 / (1 + gamma t).

    Args:
        gamma: decay per epoch, >= 0.
    """

    gamma: float

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, at_least=0, unit="1/epochs")

    def __call__(self, epoch: float) -> float:
        return 1.0 / (1.0 + self.gamma * epoch)


@dataclass(frozen=True)
class Exponential(Schedule):
    """s(t) = gamma^t (torch's ExponentialLR), or s(t) = exp(-rate t); rate = -ln gamma.

    Args:
        gamma: the factor of one epoch, in (0, 1]. Exactly one of gamma and rate is given.
        rate: decay per epoch, >= 0. NOT gamma: gamma=0.98 is rate=0.0202.
    """

    gamma: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        neither = self.gamma is None and self.rate is None
        if neither or (self.gamma is not None and self.rate is not None):
            given = "neither is" if neither else f"rate is {self.rate}"
            problem = f"exactly one of gamma (base, s = gamma^t) and rate (s = exp(-rate t)) must be given, but {given}"
            raise ConfigError(
                "gamma", "null" if neither else self.gamma, problem, "set one of them" if neither else "set one of them to null"
            )
        if self.gamma is not None:
            check_number("gamma", self.gamma, above=0, at_most=1)
        if self.rate is not None:
            check_number("rate", self.rate, at_least=0, unit="1/epochs")

    def __call__(self, epoch: float) -> float:
        if self.gamma is not None:
            return float(self.gamma**epoch)
        assert self.rate is not None
        return math.exp(-self.rate * epoch)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """s(t) = (1 - t/T)^power up to T = total_iters, 0 after it; torch's PolynomialLR. power = 1 is a straight line.

    Args:
        power: the exponent, > 0.
        total_iters: T, in epochs (torch's name, but torch counts scheduler steps), > 0; None: the whole training.
    """

    power: float
    total_iters: float | None = None

    def __post_init__(self) -> None:
        check_number("power", self.power, above=0)
        check_horizon("total_iters", self.total_iters)

    def __call__(self, epoch: float) -> float:
        remaining = max(0.0, 1.0 - epoch / require_horizon("total_iters", self.total_iters))
        return float(remaining**self.power)

    def constant_until(self, epoch: float) -> float:
        return math.inf if epoch >= require_horizon("total_iters", self.total_iters) else epoch

    def with_horizon(self, epochs: float) -> Polynomial:
        return self if self.total_iters is not None else replace(self, total_iters=epochs)


@dataclass(frozen=True)
class Linear(Schedule):
    """s(t) = start_factor + (end_factor - start_factor) min(t/T, 1), T = total_iters; torch's LinearLR.

    Args:
        start_factor: s(0), > 0.
        end_factor: s from T on, >= 0.
        total_iters: T, in epochs, > 0; None: the whole training.
    """

    start_factor: float
    end_factor: float
    total_iters: float | None = None

    def __post_init__(self) -> None:
        check_number("start_factor", self.start_factor, above=0)
        check_number("end_factor", self.end_factor, at_least=0)
        check_horizon("total_iters", self.total_iters)

    def __call__(self, epoch: float) -> float:
        progress = min(epoch / require_horizon("total_iters", self.total_iters), 1.0)
        return self.start_factor + (self.end_factor - self.start_factor) * progress

    def constant_until(self, epoch: float) -> float:
        return math.inf if epoch >= require_horizon("total_iters", self.total_iters) else epoch

    def with_horizon(self, epochs: float) -> Linear:
        return self if self.total_iters is not None else replace(self, total_iters=epochs)


@dataclass(frozen=True)
class Cosine(Schedule):
    """s(t) = m + (1 - m) (1 + cos(pi t / T_max)) / 2 with m = eta_min/lr; torch's CosineAnnealingLR.

    shape=quarter: s(t) = m + (1 - m) |cos(pi t / (2 T_max))|, which falls slowly at first and fast at the end; for m = 0 its mean is 2/pi,
    not 1/2. Periodic: after T_max the learning rate rises again and is back at its maximum at 2 T_max. `CosineRestarts` jumps back instead.

    Args:
        T_max: half a period, in epochs, > 0; None: the whole training.
        eta_min: the lowest learning rate, in [0, lr]. As s is a factor, a parameter group with another learning rate l falls to m l, a
            floor of its own; torch's eta_min is the same floor for every group.
        lr: the learning rate that eta_min is relative to, > 0.
        shape: half | quarter (of a cosine's period).

    Source: Loshchilov & Hutter 1608.03983, equation 5 without restarts.
    """

    T_max: float | None = None
    eta_min: float = 0.0
    lr: float = 1.0
    shape: str = "half"

    def __post_init__(self) -> None:
        check_horizon("T_max", self.T_max)
        check_choice("shape", self.shape, ("half", "quarter"))
        check_number("lr", self.lr, above=0)
        check_number("eta_min", self.eta_min, at_least=0, at_most=self.lr, remedy="it is a learning rate, at most the optimizer's")

    def __call__(self, epoch: float) -> float:
        progress, lowest = epoch / (self.T_max or require_horizon("T_max", self.T_max)), self.eta_min / self.lr
        if self.shape == "quarter":
            return lowest + (1.0 - lowest) * abs(math.cos(math.pi * progress / 2.0))
        return half_cosine(1.0, lowest, progress)

    def with_horizon(self, epochs: float) -> Cosine:
        return self if self.T_max is not None else replace(self, T_max=epochs)


@dataclass(frozen=True)
class WSD(Schedule):
    """s(t) = 1, then a decay to end_factor over the last decay_fraction of T; with a warm-up before it, "warm-up, stable, decay".

    With p in [0, 1] the progress of the decay, the shapes are linear, 1 - p; cosine, (1 + cos(pi p))/2; and sqrt, 1 - sqrt(p), each
    scaled to run from 1 to end_factor. Constant after T.

    Args:
        decay_fraction: the share of T that decays, in (0, 1].
        shape: linear | cosine | sqrt.
        end_factor: s(T), in [0, 1].
        epochs: T, > 0; None: the whole training.

    Source: Hu et al. 2404.06395 (the name), Haegele et al. 2405.18392 (the 1 - sqrt cool-down).
    """

    decay_fraction: float
    shape: str = "linear"
    end_factor: float = 0.0
    epochs: float | None = None

    def __post_init__(self) -> None:
        check_number("decay_fraction", self.decay_fraction, above=0, at_most=1)
        check_choice("shape", self.shape, ("linear", "cosine", "sqrt"))
        check_number("end_factor", self.end_factor, at_least=0, at_most=1)
        check_horizon("epochs", self.epochs)

    def __call__(self, epoch: float) -> float:
        left = max(0.0, 1.0 - epoch / require_horizon("epochs", self.epochs))
        part = max(0.0, 1.0 - left / self.decay_fraction)
        if self.shape == "cosine":
            return half_cosine(1.0, self.end_factor, part)
        fall = math.sqrt(part) if self.shape == "sqrt" else part
        return 1.0 + (self.end_factor - 1.0) * fall

    def constant_until(self, epoch: float) -> float:
        end = require_horizon("epochs", self.epochs)
        stable = end * (1.0 - self.decay_fraction - 1e-12)  # less than it is, by more than the rounding errors of `left`
        return stable if epoch < stable else math.inf if epoch >= end else epoch

    def with_horizon(self, epochs: float) -> WSD:
        return self if self.epochs is not None else replace(self, epochs=epochs)

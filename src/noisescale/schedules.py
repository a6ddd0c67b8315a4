"""Learning-rate schedules: epoch -> factor.

A schedule is a pure function s(t) of the clock t = examples seen / N, a float in epochs. The rate of a parameter group is
lr(t) = lr0 s(t), so groups keep their ratios. The clock is continuous and is read at the START of each update: update k uses
s(t_k) where t_k counts the examples that updates 0..k-1 consumed. torch's schedulers step once per epoch instead; at whole
epochs the two agree, and the tests compare them there.

Argument names are torch's where torch has the schedule; every time is in epochs. Where torch quotes a rate (`eta_min`, `base_lr`,
`max_lr`), so do we, against `lr`, the optimizer's rate: with the default `lr=1` it is a factor.

A horizon (`T_max`, `total_iters`, `epochs`) left at None is the whole training; `Schedule.over` fills it in.

Not to be confused with the noise schedule g(t) = s(t) g0: `batching` decides whether the rate or the batch carries it out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from noisescale.errors import ConfigError, check_choice, check_increasing, check_number

__all__ = [
    "WSD",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "Inverse",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "Step",
    "WarmedUp",
    "Warmup",
    "milestones_passed",
    "warmup_and_rest",
]


class Schedule(ABC):
    """s(t): the factor of the learning rate at epoch t >= 0; a pure function."""

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The factor at `epoch` (a float, in epochs). Never negative."""

    def parts(self, epoch: float) -> tuple[float, float]:
        """(w, s): the warm-up and the rest, whose product is the factor. A batch that carries the noise leaves w to the rate."""
        return 1.0, self(epoch)

    def over(self, epochs: float) -> Schedule:
        """This schedule with a horizon that was left open set to `epochs`; itself where it has none."""
        return self


def warmup_and_rest(schedule: Callable[[float], float], epoch: float) -> tuple[float, float]:
    """(w, s) of any function of the epoch; w = 1 where it does not know its warm-up."""
    return schedule.parts(epoch) if isinstance(schedule, Schedule) else (1.0, schedule(epoch))


def _check_horizon(key: str, epochs: float | None) -> None:
    if epochs is not None:
        check_number(key, epochs, above=0, unit="epochs", remedy="leave it at null for the whole training")


def _set(key: str, horizon: float | None) -> float:
    if horizon is None:
        raise ConfigError(key, "null", "has no horizon yet", "set it in epochs, or call `schedule.over(epochs)` first")
    return horizon


_LATE = 1.0 + 1e-12
"""A boundary is reached when epoch * _LATE reaches it: 3/10 is the third multiple of 0.1, though 0.3/0.1 < 3 in floats.

The margin is less than one example until 10^12 of them were seen, so no update comes early.
"""


def milestones_passed(milestones: Sequence[float], epoch: float) -> int:
    """The number of milestones <= t, in epochs, in increasing order; one that t reaches but for rounding counts."""
    return bisect_right(milestones, epoch * _LATE)


def _completed(epoch: float, length: float) -> int:
    """floor(epoch / length), for an epoch and a length that carry rounding errors."""
    return math.floor(epoch * _LATE / length)


@dataclass(frozen=True)
class Constant(Schedule):
    """s(t) = 1."""

    def __call__(self, epoch: float) -> float:
        return 1.0


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
        return float(self.gamma ** _completed(epoch, self.step_size))


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


@dataclass(frozen=True)
class Inverse(Schedule):
    """s(t) = 1 / (1 + gamma t).

    Args:
        gamma: per epoch, >= 0.
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
        if (self.gamma is None) == (self.rate is None):
            raise ConfigError(
                "gamma",
                self.gamma if self.gamma is not None else "null",
                f"exactly one of gamma (base, s = gamma^t) and rate (s = exp(-rate t)) must be given, rate is {self.rate}",
                "set the other one to null",
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
        power: > 0.
        total_iters: T, in epochs (torch's name; its unit is the call), > 0; None: the whole training.
    """

    power: float
    total_iters: float | None = None

    def __post_init__(self) -> None:
        check_number("power", self.power, above=0)
        _check_horizon("total_iters", self.total_iters)

    def __call__(self, epoch: float) -> float:
        remaining = max(0.0, 1.0 - epoch / _set("total_iters", self.total_iters))
        return float(remaining**self.power)

    def over(self, epochs: float) -> Polynomial:
        return self if self.total_iters is not None else replace(self, total_iters=epochs)


@dataclass(frozen=True)
class Linear(Schedule):
    """s(t) = start_factor + (end_factor - start_factor) min(t/T, 1), T = total_iters; torch's LinearLR.

    Args:
        start_factor: at t = 0, > 0.
        end_factor: from T on, >= 0.
        total_iters: T, in epochs, > 0; None: the whole training.
    """

    start_factor: float
    end_factor: float
    total_iters: float | None = None

    def __post_init__(self) -> None:
        check_number("start_factor", self.start_factor, above=0)
        check_number("end_factor", self.end_factor, at_least=0)
        _check_horizon("total_iters", self.total_iters)

    def __call__(self, epoch: float) -> float:
        progress = min(epoch / _set("total_iters", self.total_iters), 1.0)
        return self.start_factor + (self.end_factor - self.start_factor) * progress

    def over(self, epochs: float) -> Linear:
        return self if self.total_iters is not None else replace(self, total_iters=epochs)


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` (progress 0) to `end` (progress 1)."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """s(t) = m + (1 - m) (1 + cos(pi t / T_max)) / 2 with m = eta_min/lr; torch's CosineAnnealingLR.

    shape=quarter: s(t) = m + (1 - m) |cos(pi t / (2 T_max))|, which falls slowly first and fast at the end; its mean is 2/pi, not 1/2.
    Periodic: after T_max the rate climbs back, and is at its top again at 2 T_max. For jumps instead, `CosineRestarts`.

    Args:
        T_max: half a period, in epochs, > 0; None: the whole training.
        eta_min: the lowest rate, in [0, lr].
        lr: the rate that eta_min is quoted against, > 0.
        shape: half | quarter (of a cosine's period).

    Source: Loshchilov & Hutter 1608.03983, equation 5 without restarts.
    """

    T_max: float | None = None
    eta_min: float = 0.0
    lr: float = 1.0
    shape: str = "half"

    def __post_init__(self) -> None:
        _check_horizon("T_max", self.T_max)
        check_choice("shape", self.shape, ("half", "quarter"))
        check_number("lr", self.lr, above=0)
        check_number("eta_min", self.eta_min, at_least=0, at_most=self.lr, remedy="it is a rate, at most the optimizer's lr")

    def __call__(self, epoch: float) -> float:
        progress, lowest = epoch / _set("T_max", self.T_max), self.eta_min / self.lr
        if self.shape == "quarter":
            return lowest + (1.0 - lowest) * abs(math.cos(math.pi * progress / 2.0))
        return _cosine(1.0, lowest, progress)

    def over(self, epochs: float) -> Cosine:
        return self if self.T_max is not None else replace(self, T_max=epochs)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """s(t) = m + (1 - m) (1 + cos(pi t_i / T_i)) / 2, T_i = T_0 T_mult^i, m = eta_min/lr; torch's CosineAnnealingWarmRestarts.

    t_i: epochs since the i-th restart. The rate jumps back to its top at each restart.

    Args:
        T_0: length of the first cycle, in epochs, > 0.
        T_mult: growth of the cycles, >= 1.
        eta_min: the lowest rate, in [0, lr].
        lr: the rate that eta_min is quoted against, > 0.

    Source: Loshchilov & Hutter 1608.03983, equation 5.
    """

    T_0: float
    T_mult: float = 1
    eta_min: float = 0.0
    lr: float = 1.0

    def __post_init__(self) -> None:
        check_number("T_0", self.T_0, above=0, unit="epochs")
        check_number("T_mult", self.T_mult, at_least=1)
        check_number("lr", self.lr, above=0)
        check_number("eta_min", self.eta_min, at_least=0, at_most=self.lr, remedy="it is a rate, at most the optimizer's lr")

    def __call__(self, epoch: float) -> float:
        restart, length = 0.0, float(self.T_0)
        if self.T_mult == 1:
            restart = _completed(epoch, length) * length
        else:
            while epoch * _LATE >= restart + length:
                restart += length
                length *= self.T_mult
        return _cosine(1.0, self.eta_min / self.lr, max(0.0, epoch - restart) / length)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """s(t) = (base_lr + (max_lr - base_lr) x(t) d(t)) / max_lr; torch's CyclicLR, as factors of the PEAK rate.

    wave=triangle: x(t) climbs from 0 to 1 over step_size_up and falls back over step_size_down. wave=square: x = 1 for
    step_size_up, then 0 for step_size_down. c counts cycles from 0. The bound decays as
    d = 1 (triangular), 2^-c (triangular2), gamma^t (exp_range; t in epochs, where torch counts calls).

    Args:
        step_size_up: epochs of the climb, or of the high rate, > 0.
        step_size_down: epochs of the fall, or of the low rate, > 0; None: as step_size_up.
        mode: triangular | triangular2 | exp_range: torch's names, of the bound and not of the wave.
        gamma: decay of the bound per epoch for exp_range, in (0, 1].
        base_lr: the lower bound, in [0, max_lr]; None: max_lr / 5.
        max_lr: the upper bound, > 0: the optimizer's lr.
        wave: triangle | square.

    Source: L. Smith 1506.01186. base : max = 1 : 5 is Jastrzebski et al. 1711.04623.
    """

    step_size_up: float
    step_size_down: float | None = None
    mode: str = "triangular"
    gamma: float = 1.0
    base_lr: float | None = None
    max_lr: float = 1.0
    wave: str = "triangle"

    def __post_init__(self) -> None:
        check_number("step_size_up", self.step_size_up, above=0, unit="epochs")
        if self.step_size_down is not None:
            check_number("step_size_down", self.step_size_down, above=0, unit="epochs")
        check_choice("mode", self.mode, ("triangular", "triangular2", "exp_range"))
        check_choice("wave", self.wave, ("triangle", "square"))
        check_number("gamma", self.gamma, above=0, at_most=1)
        check_number("max_lr", self.max_lr, above=0)
        if self.base_lr is not None:
            check_number("base_lr", self.base_lr, at_least=0, at_most=self.max_lr, remedy="it is a rate, at most max_lr")

    def __call__(self, epoch: float) -> float:
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        cycle = _completed(epoch, up + down)
        since = max(0.0, epoch - cycle * (up + down))
        if self.wave == "square":
            height = 1.0 - (since >= up - (_LATE - 1.0) * epoch)
        else:
            height = since / up if since <= up else max(0.0, 1.0 - (since - up) / down)
        decay: float = {"triangular": 1.0, "triangular2": 2.0**-cycle, "exp_range": self.gamma**epoch}[self.mode]
        base = 0.2 if self.base_lr is None else self.base_lr / self.max_lr
        return base + (1.0 - base) * height * decay


@dataclass(frozen=True)
class OneCycle(Schedule):
    """s climbs from 1/div_factor to 1 over pct_start T, then falls to 1/(div_factor final_div_factor) at T; torch's OneCycleLR.

    The optimizer's lr is the PEAK (torch's max_lr). Only the rate moves: momentum stays as configured
    (torch's cycle_momentum=False). torch reaches the two turning points one call earlier, at pct_start T - 1 and T - 1.

    Args:
        epochs: T, > 0; None: the whole training. Constant after T.
        pct_start: the share of T that climbs, in (0, 1).
        anneal_strategy: cos | linear.
        div_factor: peak / first rate, >= 1.
        final_div_factor: first rate / last rate, >= 1.

    Source: Smith & Topin 1708.07120.
    """

    epochs: float | None = None
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check_horizon("epochs", self.epochs)
        check_number("pct_start", self.pct_start, above=0, below=1)
        check_choice("anneal_strategy", self.anneal_strategy, ("cos", "linear"))
        check_number("div_factor", self.div_factor, at_least=1)
        check_number("final_div_factor", self.final_div_factor, at_least=1)

    def __call__(self, epoch: float) -> float:
        progress = min(epoch / _set("epochs", self.epochs), 1.0)
        first = 1.0 / self.div_factor
        if progress < self.pct_start:
            start, end, part = first, 1.0, progress / self.pct_start
        else:
            start, end, part = 1.0, first / self.final_div_factor, (progress - self.pct_start) / (1.0 - self.pct_start)
        if self.anneal_strategy == "cos":
            return _cosine(start, end, part)
        return start + (end - start) * part

    def parts(self, epoch: float) -> tuple[float, float]:
        """The climb is a warm-up."""
        climbs = epoch / _set("epochs", self.epochs) < self.pct_start
        return (self(epoch), 1.0) if climbs else (1.0, self(epoch))

    def over(self, epochs: float) -> OneCycle:
        return self if self.epochs is not None else replace(self, epochs=epochs)


@dataclass(frozen=True)
class WSD(Schedule):
    """s(t) = 1, then a decay to end_factor over the last decay_fraction of T; warm-up, stable, decay with a warm-up before it.

    With p in [0, 1] the progress of the decay: linear 1 - p, cosine (1 + cos(pi p))/2, sqrt 1 - sqrt(p), each between 1 and
    end_factor. Constant after T.

    Args:
        decay_fraction: share of T that decays, in (0, 1].
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
        _check_horizon("epochs", self.epochs)

    def __call__(self, epoch: float) -> float:
        left = max(0.0, 1.0 - epoch / _set("epochs", self.epochs))
        part = max(0.0, 1.0 - left / self.decay_fraction)
        if self.shape == "cosine":
            return _cosine(1.0, self.end_factor, part)
        fall = math.sqrt(part) if self.shape == "sqrt" else part
        return 1.0 + (self.end_factor - 1.0) * fall

    def over(self, epochs: float) -> WSD:
        return self if self.epochs is not None else replace(self, epochs=epochs)


@dataclass(frozen=True)
class Warmup:
    """w(t): the factor of the warm-up; 1 from `epochs` on.

    linear: w = start_factor + (1 - start_factor) t/epochs (Goyal et al. 1706.02677, section 2.2). constant: w = start_factor.

    Args:
        epochs: its length W, >= 0; 0 is no warm-up.
        start_factor: w(0), in (0, 1].
        shape: linear | constant.
        mode: overlap: w(t) s(t), the schedule's clock runs from the start, so milestones stay where they are and a horizon
            ends with the training. shift: w(t) s(0) up to W, then s(t - W): the schedule starts when the warm-up ends; an
            open horizon is the training less W.
    """

    epochs: float
    start_factor: float = 1.0
    shape: str = "linear"
    mode: str = "overlap"

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, at_least=0, unit="epochs")
        check_number("start_factor", self.start_factor, above=0, at_most=1)
        check_choice("shape", self.shape, ("linear", "constant"))
        check_choice("mode", self.mode, ("overlap", "shift"))

    def __call__(self, epoch: float) -> float:
        if epoch >= self.epochs:
            return 1.0
        if self.shape == "constant":
            return self.start_factor
        return self.start_factor + (1.0 - self.start_factor) * epoch / self.epochs

    def before(self, schedule: Schedule, epochs: float) -> Schedule:
        """`schedule` over a training of `epochs`, with this warm-up before it.

        Raises:
            ConfigError: the warm-up shifts the schedule and leaves it no time.
        """
        if self.epochs == 0:
            return schedule.over(epochs)
        if self.mode == "overlap":
            return WarmedUp(self, schedule.over(epochs))
        remedy = "a warm-up that shifts must end before the training"
        check_number("epochs", self.epochs, at_least=0, below=epochs, unit="epochs", remedy=remedy)
        return WarmedUp(self, schedule.over(epochs - self.epochs))


@dataclass(frozen=True)
class WarmedUp(Schedule):
    """w(t) s(t) (mode overlap) or w(t) s(max(0, t - W)) (mode shift)."""

    warmup: Warmup
    schedule: Schedule

    def __call__(self, epoch: float) -> float:
        return math.prod(self.parts(epoch))

    def parts(self, epoch: float) -> tuple[float, float]:
        late = self.warmup.epochs if self.warmup.mode == "shift" else 0.0
        warmup, rest = self.schedule.parts(max(0.0, epoch - late))
        return self.warmup(epoch) * warmup, rest

"""Schedules that also rise: restarts, cycles, one cycle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from noisescale.errors import check_choice, check_number
from noisescale.schedules.schedule import BOUNDARY_SLACK, Schedule, check_horizon, completed, half_cosine, require_horizon, shortly_before

__all__ = ["CosineRestarts", "Cyclic", "OneCycle"]


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """s(t) = m + (1 - m) (1 + cos(pi t_i / T_i)) / 2, T_i = T_0 T_mult^i, m = eta_min/lr; torch's CosineAnnealingWarmRestarts.

    t_i: epochs since the i-th restart. The learning rate jumps back to its maximum at each restart.

    Args:
        T_0: length of the first cycle, in epochs, > 0.
        T_mult: growth factor of the cycle length, >= 1.
        eta_min: the lowest learning rate, in [0, lr]. As s is a factor, a parameter group with another learning rate l falls to m l, a
            floor of its own; torch's eta_min is the same floor for every group.
        lr: the learning rate that eta_min is relative to, > 0.

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
        check_number("eta_min", self.eta_min, at_least=0, at_most=self.lr, remedy="it is a learning rate, at most the optimizer's")

    def __call__(self, epoch: float) -> float:
        restart, length = 0.0, float(self.T_0)
        if self.T_mult == 1:
            restart = completed(epoch, length) * length
        else:
            while epoch * BOUNDARY_SLACK >= restart + length:
                restart += length
                length *= self.T_mult
        return half_cosine(1.0, self.eta_min / self.lr, max(0.0, epoch - restart) / length)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """s(t) = (base_lr + (max_lr - base_lr) x(t) d(t)) / max_lr; torch's CyclicLR, as a factor of the PEAK learning rate.

    wave=triangle: x(t) rises from 0 to 1 over step_size_up and falls back over step_size_down. wave=square: x = 1 for
    step_size_up, then 0 for step_size_down. The height of the wave decays as d(t) = 1 (triangular), 2^-c in cycle c = 0, 1, ...
    (triangular2), or gamma^t (exp_range; t is in epochs, whereas torch counts scheduler steps).

    Args:
        step_size_up: epochs of the rise, or of the high learning rate, > 0.
        step_size_down: epochs of the fall, or of the low learning rate, > 0; None: the same as step_size_up.
        mode: triangular | triangular2 | exp_range: torch's names for how the height decays, not for the shape of the wave.
        gamma: factor of the height per epoch for exp_range, in (0, 1].
        base_lr: the lower bound, in [0, max_lr]; None: max_lr / 5. As s is a factor, parameter groups keep the ratio of their learning
            rates; torch sets every group to the same bounds, unless it is given lists.
        max_lr: the upper bound, > 0: the optimizer's lr.
        wave: triangle | square.

    Source: L. Smith 1506.01186. base : max = 1 : 5 is from Jastrzebski et al. 1711.04623.
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
            check_number("base_lr", self.base_lr, at_least=0, at_most=self.max_lr, remedy="it is a learning rate, at most max_lr")

    def __call__(self, epoch: float) -> float:
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        cycle = completed(epoch, up + down)
        since = max(0.0, epoch - cycle * (up + down))
        if self.wave == "square":
            height = 1.0 - (since >= up - (BOUNDARY_SLACK - 1.0) * epoch)
        else:
            height = since / up if since <= up else max(0.0, 1.0 - (since - up) / down)
        decay: float = {"triangular": 1.0, "triangular2": 2.0**-cycle, "exp_range": self.gamma**epoch}[self.mode]
        base = 0.2 if self.base_lr is None else self.base_lr / self.max_lr
        return base + (1.0 - base) * height * decay

    def constant_until(self, epoch: float) -> float:
        if self.wave != "square" or self.mode == "exp_range":
            return epoch
        up = self.step_size_up
        length = up + (up if self.step_size_down is None else self.step_size_down)
        cycle = completed(epoch, length)
        fall, rise = shortly_before(cycle * length + up), shortly_before((cycle + 1) * length)
        return fall if epoch < fall else rise


@dataclass(frozen=True)
class OneCycle(Schedule):
    """s rises from 1/div_factor to 1 over pct_start T, then falls to 1/(div_factor final_div_factor) at T; torch's OneCycleLR.

    The optimizer's lr is the PEAK (torch's max_lr). Only the learning rate changes; momentum stays as configured
    (torch's cycle_momentum=False). Not torch's to the step: torch reaches the two turning points one step earlier, at pct_start T - 1 and
    T - 1, with T in steps. Every parameter group peaks at its own learning rate; torch's max_lr is the peak of all, unless it is a list.

    Args:
        epochs: T, > 0; None: the whole training. Constant after T.
        pct_start: the share of T that rises, in (0, 1).
        anneal_strategy: cos | linear.
        div_factor: peak / first learning rate, >= 1.
        final_div_factor: first / last learning rate, >= 1.

    Source: Smith & Topin 1708.07120.
    """

    epochs: float | None = None
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        check_horizon("epochs", self.epochs)
        check_number("pct_start", self.pct_start, above=0, below=1)
        check_choice("anneal_strategy", self.anneal_strategy, ("cos", "linear"))
        check_number("div_factor", self.div_factor, at_least=1)
        check_number("final_div_factor", self.final_div_factor, at_least=1)

    def __call__(self, epoch: float) -> float:
        progress = min(epoch / require_horizon("epochs", self.epochs), 1.0)
        first = 1.0 / self.div_factor
        if progress < self.pct_start:
            start, end, part = first, 1.0, progress / self.pct_start
        else:
            start, end, part = 1.0, first / self.final_div_factor, (progress - self.pct_start) / (1.0 - self.pct_start)
        if self.anneal_strategy == "cos":
            return half_cosine(start, end, part)
        return start + (end - start) * part

    def constant_until(self, epoch: float) -> float:
        return math.inf if epoch >= require_horizon("epochs", self.epochs) else epoch

    def parts(self, epoch: float) -> tuple[float, float]:
        """(w, s): the rise counts as a warm-up."""
        rises = epoch / require_horizon("epochs", self.epochs) < self.pct_start
        return (self(epoch), 1.0) if rises else (1.0, self(epoch))

    def with_horizon(self, epochs: float) -> OneCycle:
        return self if self.epochs is not None else replace(self, epochs=epochs)

"""Schedules, compared with torch's own schedulers, live.

The clock of a schedule is in epochs, but torch counts calls of `scheduler.step()`. Here torch is called k times per epoch, with its
arguments in calls, so that fractions of an epoch are compared too: call j is at t = j/k.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from noisescale.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    Warmup,
)
from tests.helpers.schedules import close, factors, some

MakeTorch = Callable[[torch.optim.Optimizer], LRScheduler]
Draw = Callable[[st.SearchStrategy[Any]], Any]


def torch_factors(make: MakeTorch, calls: int, lr: float = 1.0) -> list[float]:
    """lr_j / lr of the updates after j = 0, 1, ..., `calls` calls of `scheduler.step()`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    factors = [optimizer.param_groups[0]["lr"] / lr]
    for _ in range(calls):
        optimizer.step()
        scheduler.step()
        factors.append(optimizer.param_groups[0]["lr"] / lr)
    return factors


# Given k torch calls per epoch, each function draws (our schedule, torch's scheduler, number of torch calls to compare, lr).
Twin = tuple[Schedule, MakeTorch, int, float]

counts = st.integers(1, 40)
rates = st.floats(1e-3, 10.0)


def step(draw: Draw, k: int) -> Twin:
    size, gamma = draw(counts), draw(factors)
    return Step(size / k, gamma), partial(torch_schedulers.StepLR, step_size=size, gamma=gamma), 4 * size, 1.0


def multi_step(draw: Draw, k: int) -> Twin:
    milestones, gamma = sorted(draw(st.sets(counts, min_size=1))), draw(factors)
    ours = MultiStep([milestone / k for milestone in milestones], gamma)
    return ours, partial(torch_schedulers.MultiStepLR, milestones=milestones, gamma=gamma), 45, 1.0


def exponential(draw: Draw, k: int) -> Twin:
    gamma = draw(st.floats(0.8, 1.0))  # per call
    return Exponential(gamma=gamma**k), partial(torch_schedulers.ExponentialLR, gamma=gamma), 60, 1.0


def polynomial(draw: Draw, k: int) -> Twin:
    total, power = draw(counts), draw(st.floats(0.3, 4.0))
    make = partial(torch_schedulers.PolynomialLR, total_iters=total, power=power)
    return Polynomial(power, total / k), make, total + 5, 1.0


def linear(draw: Draw, k: int) -> Twin:
    start, end, total = draw(factors), draw(st.floats(0.0, 1.0)), draw(counts)
    make = partial(torch_schedulers.LinearLR, start_factor=start, end_factor=end, total_iters=total)
    return Linear(start, end, total / k), make, total + 5, 1.0


def cosine(draw: Draw, k: int) -> Twin:
    t_max, lr = draw(counts), draw(rates)
    eta_min = lr * draw(st.floats(0.0, 1.0))
    make = partial(torch_schedulers.CosineAnnealingLR, T_max=t_max, eta_min=eta_min)
    return Cosine(t_max / k, eta_min, lr), make, 3 * t_max, lr  # 3 T_max: down, up and down again


def cosine_restarts(draw: Draw, k: int) -> Twin:
    t_0, t_mult, lr = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(rates)
    eta_min = lr * draw(st.floats(0.0, 1.0))
    make = partial(torch_schedulers.CosineAnnealingWarmRestarts, T_0=t_0, T_mult=t_mult, eta_min=eta_min)
    return CosineRestarts(t_0 / k, t_mult, eta_min, lr), make, 120, lr


def cyclic(draw: Draw, k: int, mode: Literal["triangular", "triangular2", "exp_range"]) -> Twin:
    up, lr = draw(counts), draw(rates)
    down = draw(st.none() | counts)
    base = lr * draw(st.floats(0.0, 1.0))
    gamma = draw(st.floats(0.9, 1.0)) if mode == "exp_range" else 1.0  # per call, as in torch; ours is per epoch
    make = partial(
        torch_schedulers.CyclicLR,
        base_lr=base,
        max_lr=lr,
        step_size_up=up,
        step_size_down=down,
        mode=mode,
        gamma=gamma,
        cycle_momentum=False,
    )
    ours = Cyclic(up / k, None if down is None else down / k, mode, gamma**k, base, lr)
    return ours, make, 4 * (up + (down or up)), lr


def one_cycle(draw: Draw, k: int, anneal_strategy: str) -> Twin:
    """With n calls, torch turns at calls p n - 1 and n - 1; our schedule turns at pct_start T and T."""
    n, p = draw(st.integers(20, 80)), draw(st.floats(0.1, 0.9))
    div, final_div, lr = draw(st.floats(1.0, 50.0)), draw(st.floats(1.0, 1e4)), draw(rates)
    shared = {"anneal_strategy": anneal_strategy, "div_factor": div, "final_div_factor": final_div}
    make = partial(torch_schedulers.OneCycleLR, max_lr=lr, total_steps=n, pct_start=p, cycle_momentum=False, **shared)
    return OneCycle(epochs=(n - 1) / k, pct_start=(p * n - 1) / (n - 1), **shared), make, n - 1, lr


def linear_warmup(draw: Draw, k: int) -> Twin:
    length, start = draw(counts), draw(factors)
    ours = Warmup(length / k, start).before(Constant(), 100)
    return ours, partial(torch_schedulers.LinearLR, start_factor=start, total_iters=length), length + 5, 1.0


def constant_warmup(draw: Draw, k: int) -> Twin:
    length, start = draw(counts), draw(factors)
    ours = Warmup(length / k, start, shape="constant").before(Constant(), 100)
    return ours, partial(torch_schedulers.ConstantLR, factor=start, total_iters=length), length + 5, 1.0


def overlapping_warmup(draw: Draw, k: int) -> Twin:
    """torch's ChainedScheduler multiplies the two schedules."""
    length, start, (schedule, make, calls, lr) = draw(counts), draw(factors), step(draw, k)

    def chained(optimizer: torch.optim.Optimizer) -> LRScheduler:
        warmup = torch_schedulers.LinearLR(optimizer, start_factor=start, total_iters=length)
        return torch_schedulers.ChainedScheduler([warmup, make(optimizer)])

    return Warmup(length / k, start).before(schedule, 100), chained, calls + length, lr


def shifting_warmup(draw: Draw, k: int) -> Twin:
    """torch's SequentialLR starts the second schedule when the first ends."""
    length, start, t_max = draw(counts), draw(factors), draw(counts)

    def sequential(optimizer: torch.optim.Optimizer) -> LRScheduler:
        warmup = torch_schedulers.LinearLR(optimizer, start_factor=start, total_iters=length)
        after = torch_schedulers.CosineAnnealingLR(optimizer, T_max=t_max)
        return torch_schedulers.SequentialLR(optimizer, [warmup, after], milestones=[length])

    epochs = (length + t_max) / k  # the open horizon of the cosine is the time after the warm-up: t_max calls
    return Warmup(length / k, start, mode="shift").before(Cosine(), epochs), sequential, length + t_max, 1.0


TWINS: dict[str, Callable[[Draw, int], Twin]] = {
    "StepLR": step,
    "MultiStepLR": multi_step,
    "ExponentialLR": exponential,
    "PolynomialLR": polynomial,
    "LinearLR": linear,
    "CosineAnnealingLR": cosine,
    "CosineAnnealingWarmRestarts": cosine_restarts,
    "CyclicLR triangular": partial(cyclic, mode="triangular"),
    "CyclicLR triangular2": partial(cyclic, mode="triangular2"),
    "CyclicLR exp_range": partial(cyclic, mode="exp_range"),
    "OneCycleLR cos": partial(one_cycle, anneal_strategy="cos"),
    "OneCycleLR linear": partial(one_cycle, anneal_strategy="linear"),
    "LinearLR warm-up": linear_warmup,
    "ConstantLR warm-up": constant_warmup,
    "ChainedScheduler of LinearLR and StepLR": overlapping_warmup,
    "SequentialLR of LinearLR and CosineAnnealingLR": shifting_warmup,
}


@pytest.mark.parametrize("name", TWINS)
@some
@given(data=st.data(), k=st.integers(1, 12))
def test_it_is_torchs_at_every_call(name: str, data: st.DataObject, k: int) -> None:
    ours, make, calls, lr = TWINS[name](data.draw, k)
    assert [ours(j / k) for j in range(calls + 1)] == close(torch_factors(make, calls, lr))


def test_a_rate_of_every_param_group_is_its_own_rate_times_the_factor() -> None:
    schedule, parameters = MultiStep([1, 2], 0.1), [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 0.3}, {"params": parameters[1:], "lr": 7.0}])
    scheduler = torch_schedulers.MultiStepLR(optimizer, [1, 2], 0.1)
    for epoch in range(4):
        assert [0.3 * schedule(epoch), 7.0 * schedule(epoch)] == close([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()


def rates_of_two_groups(make: MakeTorch, lrs: tuple[float, float], calls: int) -> list[list[float]]:
    """The learning rates of two parameter groups of torch's scheduler, for the updates after 0, 1, ..., `calls` calls."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in lrs]
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters, lrs, strict=True)])
    scheduler, found = make(optimizer), []
    for _ in range(calls + 1):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (Cosine(8, eta_min=0.1, lr=1.0), partial(torch_schedulers.CosineAnnealingLR, T_max=8, eta_min=0.1)),
        (CosineRestarts(9, 1, 0.1, 1.0), partial(torch_schedulers.CosineAnnealingWarmRestarts, T_0=9, eta_min=0.1)),
    ],
)
def test_eta_min_is_a_floor_of_every_group_and_torchs_is_one_for_all(ours: Schedule, make: MakeTorch) -> None:
    lrs = (1.0, 0.2)
    torchs = rates_of_two_groups(make, lrs, 8)
    mine = [[lr * ours(call) for lr in lrs] for call in range(9)]
    assert [group for group, _ in mine] == close([group for group, _ in torchs])
    assert [other / group for group, other in mine] == close([0.2] * 9)
    assert mine[8][1] == close(0.2 * mine[8][0])
    assert torchs[8][1] > 4 * mine[8][1]
    if isinstance(ours, Cosine):
        assert mine[8] == close([0.1, 0.02])
        assert torchs[8] == close([0.1, 0.1])


def test_torchs_cyclic_and_one_cycle_set_every_group_to_the_same_rates() -> None:
    lrs = (1.0, 0.2)
    cycle = partial(torch_schedulers.CyclicLR, base_lr=0.2, max_lr=1.0, step_size_up=2, cycle_momentum=False)
    one = partial(torch_schedulers.OneCycleLR, max_lr=1.0, total_steps=20, cycle_momentum=False)
    for make in (cycle, one):
        assert all(first == other for first, other in rates_of_two_groups(make, lrs, 10))


def test_one_cycle_turns_one_step_later_than_torchs() -> None:
    n, p = 20, 0.3
    torchs = torch_factors(partial(torch_schedulers.OneCycleLR, max_lr=1.0, total_steps=n, pct_start=p, cycle_momentum=False), n - 1)
    mine = [OneCycle(epochs=n, pct_start=p)(call) for call in range(n + 1)]
    assert (torchs.index(max(torchs)), mine.index(max(mine))) == (5, 6)
    assert torchs[n - 1] == close(mine[n]) == close(1 / 25e4)
    assert mine[n - 1] > 1000 * torchs[n - 1]

"""Schedules, compared with torch's own schedulers, live, and with their formulas; horizons, boundaries, warm-up, refusals.

The clock of a schedule is in epochs, but torch counts calls of `scheduler.step()`. Here torch is called k times per epoch, with its
arguments in calls, so that fractions of an epoch are compared too: call j is at t = j/k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from noisescale import schedules
from noisescale.errors import ConfigError
from noisescale.schedules import (
    WSD,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    Warmup,
)

MakeTorch = Callable[[torch.optim.Optimizer], LRScheduler]
Draw = Callable[[st.SearchStrategy[Any]], Any]

some = settings(max_examples=30)
many = settings(max_examples=200)

close = partial(pytest.approx, rel=1e-9, abs=1e-12)


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


# -- torch's schedulers, live -------------------------------------------------------------------------------------------------

# Given k torch calls per epoch, each function draws (our schedule, torch's scheduler, number of torch calls to compare, lr).
Twin = tuple[Schedule, MakeTorch, int, float]

counts = st.integers(1, 40)
factors = st.floats(0.05, 1.0)
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


# -- formulas, by hand --------------------------------------------------------------------------------------------------------

epochs = st.floats(0.0, 300.0)


@many
@given(gamma=st.floats(0.0, 10.0), t=epochs)
def test_inverse_is_one_over_one_plus_gamma_t(gamma: float, t: float) -> None:
    assert Inverse(gamma)(t) * (1 + gamma * t) == close(1.0)


@many
@given(rate=st.floats(0.0, 1.0), t=epochs)
def test_the_rate_of_an_exponential_is_minus_the_logarithm_of_its_gamma(rate: float, t: float) -> None:
    assert Exponential(rate=rate)(t) == close(math.e ** (-rate * t))
    assert Exponential(rate=rate)(t) == close(Exponential(gamma=math.exp(-rate))(t))


WSD_FALL = {"linear": lambda p: p, "cosine": lambda p: math.sin(math.pi * p / 2) ** 2, "sqrt": lambda p: p**0.5}


@pytest.mark.parametrize("shape", WSD_FALL)
@many
@given(fraction=st.floats(0.01, 1.0), end=st.floats(0.0, 1.0), length=st.floats(0.5, 300.0), clock=st.floats(0.0, 1.5))
def test_wsd_is_one_then_falls_over_the_last_fraction(shape: str, fraction: float, end: float, length: float, clock: float) -> None:
    t, stable = clock * length, length * (1 - fraction)
    fall = 0.0 if t <= stable else 1.0 if t >= length else WSD_FALL[shape]((t - stable) / (length - stable))
    # sqrt has an infinite slope where the decay starts: there an error of 1e-16 in the clock is an error of 1e-8 in the factor.
    assert WSD(fraction, shape, end, length)(t) == pytest.approx(1 - (1 - end) * fall, rel=1e-9, abs=1e-6 if shape == "sqrt" else 1e-9)


def test_constant_is_one() -> None:
    assert [Constant()(t) for t in (0, 0.5, 1e9)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        pytest.param(Step(1, 0.65), {0: 1, 0.99: 1, 1: 0.65, 2: 0.4225, 3.5: 0.274625}, id="StepLR gamma .65"),
        pytest.param(
            MultiStep([10, 15, 25, 30], 0.1),
            {0: 1, 9.999: 1, 10: 0.1, 14.999: 0.1, 15: 0.01, 25: 1e-3, 29.999: 1e-3, 30: 1e-4, 1000: 1e-4},
            id="MultiStepLR 10, 15, 25, 30: .05 to .000005",
        ),
        pytest.param(Exponential(gamma=0.98), {0: 1, 1: 0.98, 0.5: math.sqrt(0.98), 100: 0.1326195558945}, id="ExponentialLR .98"),
        pytest.param(
            Cosine(150),
            {0: 1, 50: 0.75, 75: 0.5, 100: 0.25, 150: 0, 200: 0.25, 225: 0.5, 300: 1, 450: 0, 600: 1},
            id="CosineAnnealingLR T_max 150: periodic",
        ),
        pytest.param(Cyclic(2), {0: 0.2, 1: 0.6, 2: 1, 3: 0.6, 4: 0.2, 6: 1}, id="the bounds of a cycle are 1 : 5"),
        pytest.param(Linear(2.0, 0.0, 4), {0: 2, 1: 1.5, 2: 1, 4: 0, 9: 0}, id="a factor above 1, which torch does not have"),
        pytest.param(CosineRestarts(1, 1.5), {0: 1, 0.5: 0.5, 1: 1, 1.75: 0.5, 2.5: 1, 4.75: 1}, id="a T_mult that is not whole"),
        pytest.param(OneCycle(10, 0.3, "cos", 25, 1e4), {0: 0.04, 3: 1, 10: 4e-6, 11: 4e-6}, id="1cycle turns at pct_start T"),
    ],
)
def test_worked_examples(schedule: Schedule, expected: dict[float, float]) -> None:
    assert {t: schedule(t) for t in expected} == close(expected)


@many
@given(t_max=st.floats(0.1, 200.0), t=epochs, periods=st.integers(1, 5), low=st.floats(0.0, 1.0))
def test_cosine_is_periodic_and_symmetric_about_t_max(t_max: float, t: float, periods: int, low: float) -> None:
    schedule = Cosine(t_max, low)
    # The cosine of an angle of n periods has an error of n roundings.
    assert schedule(t + 2 * periods * t_max) == pytest.approx(schedule(t), abs=1e-9)
    assert schedule(abs(2 * t_max - t)) == pytest.approx(schedule(t), abs=1e-9)


# -- boundaries ---------------------------------------------------------------------------------------------------------------


@many
@given(
    tenths=st.integers(1, 500),
    cuts=st.integers(1, 60),
    num_examples=st.integers(1, 10**6).map(lambda n: 10 * n),
    warmup=st.integers(0, 50),
)
def test_a_boundary_that_is_no_binary_fraction_comes_neither_late_nor_early(tenths: int, cuts: int, num_examples: int, warmup: int) -> None:
    """At t = position/N, 0.3/0.1 is 2.9999999999999996. The cut must happen then nevertheless, and not one example earlier."""
    boundary = cuts * tenths * num_examples // 10  # the exact position, in examples
    length, at, before = tenths / 10, boundary / num_examples, (boundary - 1) / num_examples
    milestones = [m * tenths / 10 for m in range(1, cuts + 2)]
    for cut in (Step(length, 0.5), MultiStep(milestones, 0.5)):
        assert (cut(before), cut(at)) == (0.5 ** (cuts - 1), 0.5**cuts)
        late = Warmup(warmup / 10, mode="shift").before(cut, 1e9)
        shift = warmup * num_examples // 10
        assert (late((boundary + shift - 1) / num_examples), late((boundary + shift) / num_examples)) == (
            0.5 ** (cuts - 1),
            0.5**cuts,
        )
    restarts = CosineRestarts(length)
    assert restarts(at) == pytest.approx(1.0, abs=1e-12)
    assert restarts(before) == pytest.approx((1 - math.cos(math.pi / (tenths * num_examples / 10))) / 2, abs=1e-9)


@some
@given(
    tenths=st.integers(1, 100),
    t_mult=st.integers(2, 4),
    restarts=st.integers(1, 6),
    num_examples=st.integers(1, 10**5).map(lambda n: 10 * n),
)
def test_growing_cycles_restart_at_the_sums_of_their_lengths(tenths: int, t_mult: int, restarts: int, num_examples: int) -> None:
    boundary = sum(tenths * t_mult**i for i in range(restarts)) * num_examples // 10
    last_cycle = tenths * t_mult ** (restarts - 1) * num_examples / 10  # in examples
    schedule = CosineRestarts(tenths / 10, t_mult)
    assert schedule(boundary / num_examples) == pytest.approx(1.0, abs=1e-12)
    assert schedule((boundary - 1) / num_examples) == pytest.approx((1 - math.cos(math.pi / last_cycle)) / 2, abs=1e-9)


lengths = st.floats(0.01, 100.0) | st.integers(1, 1000).map(lambda tenths: tenths / 10)
any_factor = st.floats(0.0, 1.0)
open_horizon = st.none()
SCHEDULES: st.SearchStrategy[Schedule] = st.one_of(
    st.just(Constant()),
    st.builds(Step, lengths, factors),
    st.builds(MultiStep, st.lists(lengths, unique=True).map(sorted), factors),
    st.builds(Inverse, st.floats(0.0, 1e6)),
    st.builds(Exponential, gamma=factors),
    st.builds(Exponential, rate=st.floats(0.0, 1e6)),
    st.builds(Polynomial, st.floats(0.01, 100.0), open_horizon | lengths),
    st.builds(Linear, factors, any_factor, open_horizon | lengths),
    st.builds(Cosine, open_horizon | lengths, any_factor),
    st.builds(CosineRestarts, lengths, st.sampled_from([1, 1.0, 1.5, 2, 10]), any_factor),
    st.builds(
        Cyclic,
        lengths,
        st.none() | lengths,
        st.sampled_from(["triangular", "triangular2", "exp_range"]),
        factors,
        st.none() | any_factor,
    ),
    st.builds(OneCycle, open_horizon | lengths, st.floats(0.01, 0.99), st.sampled_from(["cos", "linear"])),
    st.builds(WSD, st.floats(0.01, 1.0), st.sampled_from(["linear", "cosine", "sqrt"]), any_factor, open_horizon | lengths),
)
WARMUPS = st.builds(Warmup, st.floats(0.0, 9.0), factors, st.sampled_from(["linear", "constant"]), st.sampled_from(["overlap", "shift"]))


@settings(max_examples=1000)
@given(schedule=SCHEDULES, warmup=WARMUPS, t=st.floats(0.0, 1e9) | st.integers(0, 10**6).map(lambda examples: examples / 100))
def test_a_factor_is_a_float_in_zero_to_one(schedule: Schedule, warmup: Warmup, t: float) -> None:
    """All of these schedules start at their maximum, 1. No schedule may ever be negative."""
    factor = warmup.before(schedule, 10.0)(t)
    assert isinstance(factor, float)
    assert 0.0 <= factor <= 1.0 + 1e-12


@pytest.mark.parametrize("t", [3.4, 6.8, 7.8, 13.6])
def test_a_cycle_with_a_base_of_zero_does_not_go_below_it_by_rounding(t: float) -> None:
    """t is a whole number of cycles, and floor(t / 0.2) * 0.2 is larger than t by a rounding error."""
    assert 0.0 <= Cyclic(0.1, 0.1, base_lr=0.0)(t) < 1e-12


# -- horizons -----------------------------------------------------------------------------------------------------------------

OPEN = [
    (Polynomial(2.0), "total_iters"),
    (Linear(1.0, 0.0), "total_iters"),
    (Cosine(), "T_max"),
    (OneCycle(), "epochs"),
    (WSD(0.2), "epochs"),
]
CLOSED: list[Schedule] = [
    Constant(),
    Step(1, 0.5),
    MultiStep([1], 0.5),
    Inverse(1.0),
    Exponential(gamma=0.9),
    CosineRestarts(1),
    Cyclic(1),
]


@pytest.mark.parametrize(("schedule", "key"), OPEN)
def test_an_open_horizon_is_filled_in_once(schedule: Schedule, key: str) -> None:
    filled = schedule.with_horizon(30)
    assert getattr(filled, key) == 30
    assert filled.with_horizon(7) is filled
    assert getattr(schedule, key) is None


@pytest.mark.parametrize(("schedule", "key"), OPEN)
def test_an_open_horizon_cannot_be_called(schedule: Schedule, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}=null: the horizon is not set yet; set it in epochs"):
        schedule(0.0)


@pytest.mark.parametrize("schedule", CLOSED)
def test_a_schedule_without_a_horizon_stays_itself(schedule: Schedule) -> None:
    assert schedule.with_horizon(30) is schedule


# -- warm-up ------------------------------------------------------------------------------------------------------------------


@many
@given(length=st.floats(0.01, 50.0), start=factors, part=st.floats(0.0, 1.0, exclude_max=True))
def test_a_linear_warmup_is_the_straight_line_to_one_and_a_constant_one_jumps(length: float, start: float, part: float) -> None:
    linear, constant = Warmup(length, start), Warmup(length, start, "constant")
    assert linear(part * length) == close(start * (1 - part) + part)
    assert constant(math.nextafter(length, 0.0)) == start
    assert linear(math.nextafter(length, 0.0)) == close(1.0)
    assert [warmup(t) for warmup in (linear, constant) for t in (length, 2 * length)] == [1.0] * 4


@pytest.mark.parametrize("shape", ["linear", "constant"])
@many
@given(schedule=SCHEDULES, length=st.floats(0.1, 9.0), t=st.floats(0.0, 12.0))
def test_overlap_multiplies_and_shift_waits(shape: str, schedule: Schedule, length: float, t: float) -> None:
    overlap, shift = (Warmup(length, 0.1, shape, mode) for mode in ("overlap", "shift"))
    assert overlap.before(schedule, 10)(t) == overlap(t) * schedule.with_horizon(10)(t)
    late = schedule.with_horizon(10 - length)
    assert shift.before(schedule, 10)(t) == (late(t - length) if t >= length else shift(t) * late(0.0))


def test_overlap_keeps_the_milestones_and_shift_delays_them() -> None:
    cut = MultiStep([10], 0.1)
    overlap, shift = (Warmup(5, 0.2, mode=mode).before(cut, 20) for mode in ("overlap", "shift"))
    assert [overlap(t) for t in (0, 5, 9.9, 10)] == close([0.2, 1, 1, 0.1])
    assert [shift(t) for t in (0, 5, 10, 14.9, 15)] == close([0.2, 1, 1, 1, 0.1])


def test_both_modes_end_an_open_horizon_with_the_training() -> None:
    for mode, halfway in (("overlap", 10), ("shift", 12.5)):
        schedule = Warmup(5, 0.2, mode=mode).before(Cosine(), 20)
        assert (schedule(halfway), schedule(20)) == close((0.5, 0.0))


@pytest.mark.parametrize("mode", ["overlap", "shift"])
def test_no_warmup_is_the_schedule_itself(mode: str) -> None:
    schedule = Step(1, 0.5)
    assert Warmup(0, 0.1, mode=mode).before(schedule, 10) is schedule
    assert Warmup(0, 0.1, mode=mode).before(Cosine(), 10) == Cosine(10)


@pytest.mark.parametrize("length", [30, 30.5, 100])
def test_a_shift_that_leaves_no_time_is_refused(length: float) -> None:
    line = f"epochs={length}: must be a finite number in [0, 30), in epochs; with mode=shift the warm-up must end before the training does"
    with pytest.raises(ConfigError) as refusal:
        Warmup(length, mode="shift").before(Constant(), 30)
    assert str(refusal.value) == line
    assert Warmup(length, mode="overlap").before(Constant(), 30)(0.0) == 1.0


# -- refusals -----------------------------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
ABOVE_0, FROM_0, SHARE, CUT = "(0, inf)", "[0, inf)", "[0, 1]", "(0, 1]"
# schedule, the option, values out of its range, the range as printed
RANGES: list[tuple[Callable[..., object], str, list[Any], str]] = [
    (partial(Step, gamma=0.5), "step_size", [0, -1, NAN, INF, "5", True, None], f"{ABOVE_0}, in epochs"),
    (partial(Step, 5), "gamma", [0, 1.1, -0.5, NAN], CUT),
    (partial(MultiStep, [1]), "gamma", [0, 1.1], CUT),
    (Inverse, "gamma", [-0.1, INF], f"{FROM_0}, in 1/epochs"),
    (Exponential, "gamma", [0, 1.1], CUT),
    (Exponential, "rate", [-0.1], f"{FROM_0}, in 1/epochs"),
    (Polynomial, "power", [0, -1], ABOVE_0),
    (partial(Polynomial, 1), "total_iters", [0, -1], f"{ABOVE_0}, in epochs"),
    (partial(Linear, end_factor=0), "start_factor", [0, -1], ABOVE_0),
    (partial(Linear, 1), "end_factor", [-0.1], FROM_0),
    (partial(Linear, 1, 0), "total_iters", [0], f"{ABOVE_0}, in epochs"),
    (Cosine, "T_max", [0, -150], f"{ABOVE_0}, in epochs"),
    (partial(Cosine, lr=0.1), "eta_min", [-0.1, 0.2], "[0, 0.1]"),
    (Cosine, "lr", [0], ABOVE_0),
    (CosineRestarts, "T_0", [0], f"{ABOVE_0}, in epochs"),
    (partial(CosineRestarts, 1), "T_mult", [0.9, 0], "[1, inf)"),
    (partial(CosineRestarts, 1, lr=0.1), "eta_min", [0.2], "[0, 0.1]"),
    (Cyclic, "step_size_up", [0], f"{ABOVE_0}, in epochs"),
    (partial(Cyclic, 1), "step_size_down", [0], f"{ABOVE_0}, in epochs"),
    (partial(Cyclic, 1), "gamma", [0, 1.1], CUT),
    (partial(Cyclic, 1), "max_lr", [0], ABOVE_0),
    (partial(Cyclic, 1, max_lr=0.5), "base_lr", [-1, 0.6], "[0, 0.5]"),
    (OneCycle, "epochs", [0], f"{ABOVE_0}, in epochs"),
    (OneCycle, "pct_start", [0, 1], "(0, 1)"),
    (OneCycle, "div_factor", [0.5], "[1, inf)"),
    (OneCycle, "final_div_factor", [0.5], "[1, inf)"),
    (WSD, "decay_fraction", [0, 1.5], CUT),
    (partial(WSD, 0.2), "end_factor", [-0.1, 1.1], SHARE),
    (partial(WSD, 0.2), "epochs", [0], f"{ABOVE_0}, in epochs"),
    (Warmup, "epochs", [-1, None], f"{FROM_0}, in epochs"),
    (partial(Warmup, 1), "start_factor", [0, 1.1], CUT),
]


@pytest.mark.parametrize(
    ("make", "key", "value", "valid"),
    [pytest.param(make, key, value, valid, id=f"{key}={value}") for make, key, values, valid in RANGES for value in values],
)
def test_a_value_out_of_range_is_named_with_its_range(make: Callable[..., object], key: str, value: Any, valid: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make(**{key: value})
    assert str(refusal.value).split("; ")[0] == f"{key}={value}: must be a finite number in {valid}"


@pytest.mark.parametrize(
    ("make", "key", "choices"),
    [
        (partial(Cyclic, 1), "mode", "triangular, triangular2, exp_range"),
        (OneCycle, "anneal_strategy", "cos, linear"),
        (partial(WSD, 0.2), "shape", "linear, cosine, sqrt"),
        (partial(Warmup, 1), "shape", "linear, constant"),
        (partial(Warmup, 1), "mode", "overlap, shift"),
    ],
)
def test_an_unknown_choice_is_named_with_the_known_ones(make: Callable[..., object], key: str, choices: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make(**{key: "typo"})
    assert str(refusal.value) == f"{key}=typo: must be one of {choices}"


@pytest.mark.parametrize("both_or_neither", [{}, {"gamma": 0.9, "rate": 0.1}])
def test_an_exponential_needs_exactly_one_of_gamma_and_rate(both_or_neither: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"^gamma=(null|0\.9): exactly one of gamma .* and rate .* must be given"):
        Exponential(**both_or_neither)


@pytest.mark.parametrize("milestones", [[10, 10], [15, 10], [0, 1], [-1], [1, NAN], 10, "10", [1, "2"]])
def test_milestones_must_increase(milestones: Any) -> None:
    with pytest.raises(ConfigError, match=r"^milestones="):
        MultiStep(milestones, 0.1)


def test_a_quarter_cosine() -> None:
    """1 and 0 at the ends, sqrt(1/2) in the middle, mean 2/pi; it can have a floor, and rises again like the half cosine."""
    quarter = schedules.Cosine(T_max=20, shape="quarter")
    assert [quarter(t) for t in (0, 10, 20, 30, 40)] == pytest.approx([1, math.sqrt(0.5), 0, math.sqrt(0.5), 1], abs=1e-15)
    assert sum(quarter((i + 0.5) / 100) for i in range(2000)) / 2000 == pytest.approx(2 / math.pi, rel=1e-6)
    assert schedules.Cosine(T_max=20, eta_min=0.02, lr=0.1, shape="quarter")(10) == pytest.approx(0.2 + 0.8 * math.sqrt(0.5))


def test_a_square_wave() -> None:
    """First the learning rate of a triangle's top, then that of its bottom; a boundary that rounding just misses counts as reached."""
    wave = schedules.Cyclic(step_size_up=0.1, step_size_down=0.2, base_lr=0.001, max_lr=0.005, wave="square")
    assert [wave(t) for t in (0, 0.05, 0.1, 0.299, 0.3, 0.39)] == [1, 1, 0.2, 0.2, 1, 1]
    assert [wave(3 * k / 10) for k in range(1, 200)] == [1.0] * 199
    assert [wave((3 * k + 1) / 10) for k in range(1, 200)] == [0.2] * 199
    halved = schedules.Cyclic(step_size_up=1, mode="triangular2", wave="square")
    assert [halved(t) for t in (0, 1, 2, 3, 4)] == pytest.approx([1, 0.2, 0.6, 0.2, 0.4])


def test_the_climb_of_onecycle_is_a_warm_up() -> None:
    """A batch that carries the noise leaves the climb to the learning rate, also with a warm-up before it."""
    one = schedules.OneCycle(epochs=10)
    assert one.parts(1) == (one(1), 1.0)
    assert one.parts(5) == (1.0, one(5))
    both = schedules.Warmup(2, 0.5).before(one, 10)
    assert both.parts(1) == (0.75 * one(1), 1.0)
    assert schedules.warmup_and_rest(lambda t: 1 / (1 + t), 1) == (1.0, 0.5)

"""The dual of every schedule: however the batch carries the noise, each update has the noise that the schedule sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.app.config import build
from noisescale.plans import strategies as batching
from noisescale.plans.duality import CyclicBatch, Dual, Matched, counterpart, resolve_rule
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import LAST_WINDOW, BatchStrategy, Fixed, Full
from noisescale.schedules import Schedule, warmup_and_rest
from tests.helpers.plans import duals, matched_plans, warmed, waves
from tests.helpers.refusals import refusal_of
from tests.helpers.repository import CONF

many = settings(max_examples=250)
CIFAR = 50_000
POWER = {"sgd": 1.0, "adaptive": 0.5}
TIGHT = 1e-12


def strategy_of(plan: Plan) -> Matched:
    assert isinstance(plan.strategy, Matched)
    return plan.strategy


def quoted(strategy: BatchStrategy, size: int) -> float:
    """(B/B_ref)^p, the scaling of the learning rate."""
    if strategy.reference_size is None or strategy.lr_rule == "none":
        return 1.0
    ratio = size / strategy.reference_size
    return ratio if strategy.lr_rule == "linear" else math.sqrt(ratio)


def n_of(match: str, num_examples: int, size: int) -> float:
    """N/B - 1 or N/B, computed with exact fractions."""
    return float(Fraction(num_examples, size) - (match == "exact"))


def wave_at(strategy: Matched, epoch: float) -> float:
    """c(t), the wave of a cyclic batch; 1 for a dual."""
    if not isinstance(strategy, CyclicBatch):
        return 1.0
    up, down, mode, gamma = strategy.step_size_up, strategy.step_size_down, strategy.mode, strategy.gamma
    return schedules.Cyclic(up, down, mode, gamma, strategy.base_factor, wave=strategy.wave)(epoch)


def noise_and_target(plan: Plan, update: Update) -> tuple[float, float]:
    """(lr n(B)^p of an update over lr0, and its target w s c n(B0)^p, with lr0 scaled for B0)."""
    strategy, n = strategy_of(plan), plan.num_examples
    assert strategy.rule is not None
    power = POWER[strategy.rule]
    warmup, factor = warmup_and_rest(plan.schedule, update.epoch)
    level = warmup * factor * wave_at(strategy, update.epoch) * quoted(strategy, strategy.size)
    noise = update.lr_factor * math.pow(n_of(strategy.match, n, update.effective_batch_size), power)
    return noise, level * math.pow(n_of(strategy.match, n, strategy.size), power)


def whole(update: Update) -> bool:
    return update.effective_batch_size == update.planned_batch_size


def off(found: float, wanted: float) -> float:
    """The relative error; infinite if `wanted` is 0 and `found` is not."""
    return abs(found - wanted) / abs(wanted) if wanted else math.inf if found else 0.0


# -- the noise ----------------------------------------------------------------------------------------------------------------


@many
@given(plan=matched_plans())
@example(plan=Plan(schedules.Polynomial(2, 1), Dual(1, rule="sgd", max_size=2), 2, 3))  # s = 0 in two of three epochs, so B = N
@example(plan=Plan(schedules.Linear(300, 0, 2), Dual(90, rule="adaptive", growth=0.5), 100, 3))  # B = 1 cannot carry all of the noise
def test_every_full_update_has_the_noise_of_the_schedule(plan: Plan) -> None:
    for update in plan:
        if whole(update):
            noise, target = noise_and_target(plan, update)
            assert off(noise, target) <= TIGHT


@many
@given(plan=matched_plans(match_last=True))
def test_with_match_last_so_has_every_smaller_window(plan: Plan) -> None:
    for update in plan:
        noise, target = noise_and_target(plan, update)
        assert off(noise, target) <= TIGHT


@many
@given(plan=matched_plans(), lr=st.floats(1e-4, 10.0))
def test_of_sgd_and_exact_that_is_g(plan: Plan, lr: float) -> None:
    n = plan.num_examples
    plan = replace(plan, strategy=replace(strategy_of(plan), rule="sgd", match="exact", lr_rule="none", match_last=True))
    g0 = float(Fraction(lr) * (Fraction(n, strategy_of(plan).size) - 1))
    for update in plan:
        assert off(plan.noise(update, lr), plan.schedule(update.epoch) * wave_at(strategy_of(plan), update.epoch) * g0) <= TIGHT


def test_the_test_of_the_noise_can_fail() -> None:
    """If the learning rate does not make up for the rounding of B, the noise is wrong by more than a percent."""

    class Rounded(Dual):
        def lr_factor(self, epoch: float, factor: float, size: int, num_examples: int) -> float:
            return math.pow(factor, 1 - self.growth)

    def worst(strategy: Dual) -> float:
        plan = Plan(schedules.Cosine(2), strategy, 103, 2)
        return max(off(*noise_and_target(plan, update)) for update in plan if whole(update))

    assert worst(Rounded(4, rule="sgd", growth=1.0)) > 0.01
    assert worst(Dual(4, rule="sgd", growth=1.0)) <= TIGHT


# -- the batch ----------------------------------------------------------------------------------------------------------------


def candidates(strategy: Matched, cap: int, share: float, num_examples: int) -> list[int]:
    """All batch sizes that may be chosen. A full batch has no noise, so it is one of them only at level 0 and with growth 1."""
    step = strategy.micro_batch_size or 1
    noisy = share > 0 or (isinstance(strategy, Dual) and strategy.growth < 1)
    most = min(cap, num_examples - 1) if strategy.match == "exact" and noisy else cap
    return list(range(step, most + 1, step))


def closed_form(strategy: Matched, share: float, num_examples: int) -> float:
    """B as a real number: N / (1 + (N/B0 - 1) x) for exact, B0 / x for ratio, where x = share^(1/p); B0 / 0 is infinite."""
    power = {"sgd": 1.0, "adaptive": 2.0}[str(strategy.rule)]
    share **= power
    if strategy.match == "exact":
        return num_examples / (1 + (num_examples / strategy.size - 1) * share)
    return strategy.size / share if share > 0 else math.inf


@many
@given(plan=matched_plans())
@example(plan=Plan(schedules.Polynomial(0.3, 1.0), Dual(1, rule="sgd", growth=0.5, max_size=2), 2, 4))
def test_the_batch_is_the_nearest_realisable_one_to_the_closed_form(plan: Plan) -> None:
    assume(plan.num_examples <= 200)
    strategy, n = strategy_of(plan), plan.num_examples
    for update in plan:
        _, factor = warmup_and_rest(plan.schedule, update.epoch)
        if isinstance(strategy, Dual):
            cap = strategy.max_size if strategy.max_size is not None else max(strategy.size, n // 10)
            share = factor**strategy.growth
        else:
            cap, share = n, wave_at(strategy, update.epoch)
        size, sizes = update.planned_batch_size, candidates(strategy, cap, share, n)
        assert size in sizes
        wanted = closed_form(strategy, share, n) if share > 0 else math.inf
        wanted = min(wanted, float(n))  # finite, so that distances can be compared
        nearest = min(abs(other - wanted) for other in sizes)
        assert abs(size - wanted) <= nearest + 1e-9 * n
        assert update.effective_batch_size <= size <= cap


@many
@given(data=st.data(), n=st.integers(2, 2_000_000), share=st.floats(0.0, 1e6), other=st.floats(0.0, 1e6))
def test_less_noise_is_never_a_smaller_batch(data: st.DataObject, n: int, share: float, other: float) -> None:
    strategy = data.draw(duals(n))
    strategy.check(n)
    low, high = sorted([share, other])
    assert 1 <= strategy.size_at(0.0, high, n) <= strategy.size_at(0.0, low, n) <= strategy.cap(n) <= n


@many
@given(data=st.data(), n=st.integers(2, 300))
def test_growth_0_is_the_rate_alone(data: st.DataObject, n: int) -> None:
    dual = replace(data.draw(duals(n)), growth=0.0, match_last=False)
    keys = ("last", "lr_rule", "reference_size", "micro_batch_size")
    fixed = Fixed(dual.size, **{key: getattr(dual, key) for key in keys})
    schedule = data.draw(warmed())
    of_dual, of_fixed = list(Plan(schedule, dual, n, 2)), list(Plan(schedule, fixed, n, 2))
    assert [(u.start, u.effective_batch_size) for u in of_dual] == [(u.start, u.effective_batch_size) for u in of_fixed]
    assert max(off(a.lr_factor, b.lr_factor) for a, b in zip(of_dual, of_fixed, strict=True)) <= 1e-15


@many
@given(data=st.data(), n=st.integers(2, 2_000_000), factor=st.floats(1e-6, 300.0))
def test_before_the_cap_the_rate_is_the_closed_form_but_for_rounding(data: st.DataObject, n: int, factor: float) -> None:
    """lr = lr0 s^(1 - growth) (n(B*)/n(B))^p, where B is at most half a step from the real number B*: for growth = 1 about lr0."""
    dual = replace(data.draw(duals(n)), lr_rule="none")
    wanted, half = closed_form(dual, factor**dual.growth, n), (dual.micro_batch_size or 1) / 2
    cap = dual.cap(n) - (dual.cap(n) == n and dual.match == "exact")
    assume(half <= wanted - half)
    assume(wanted + half <= cap)
    power = POWER[str(dual.rule)]

    def rate(size: float) -> float:
        def n_at(b: float) -> float:
            return (n - b) / b if dual.match == "exact" else n / b

        return math.pow(factor, 1 - dual.growth) * math.pow(n_at(wanted) / n_at(size), power)

    choice = dual(0.0, factor, n)
    assert abs(choice.size - wanted) <= half * (1 + 1e-9)
    low, high = sorted([rate(wanted - half), rate(wanted + half)])
    assert low * (1 - 1e-6) <= choice.lr_factor <= high * (1 + 1e-6)


@pytest.mark.parametrize(
    ("strategy", "sizes"),
    [
        pytest.param(Dual(128, rule="sgd", max_size=CIFAR), [128, 634, 3015, 12_145], id="exact"),
        pytest.param(Dual(128, rule="sgd", match="ratio", max_size=CIFAR), [128, 640, 3200, 16_000], id="ratio"),
        pytest.param(Dual(128, rule="adaptive", match="ratio", growth=0.5, max_size=CIFAR), [128, 640, 3200, 16_000], id="seesaw"),
        pytest.param(Dual(128, rule="adaptive", match="ratio", max_size=CIFAR), [128, 3200, CIFAR, CIFAR], id="adaptive, batch only"),
        pytest.param(Dual(128, rule="sgd", match="ratio"), [128, 640, 3200, 5000], id="the cap is N/10"),
        pytest.param(Dual(6000, rule="sgd", match="ratio"), [6000] * 4, id="or B0"),
        pytest.param(Dual(128, rule="sgd", match="ratio", max_size=5120), [128, 640, 3200, 5120], id="or max_size"),
    ],
)
def test_three_cuts_by_five(strategy: Dual, sizes: list[int]) -> None:
    """Smith et al. 2017, with lr N/B and with g kept. Where the cap limits the batch, the learning rate makes up for it."""
    schedule = schedules.MultiStep([60, 120, 160], 0.2)
    choices = [strategy(epoch, schedule(epoch), CIFAR) for epoch in (0, 60, 120, 160)]
    assert [choice.size for choice in choices] == sizes
    for choice, cut in zip(choices, (1, 5, 25, 125), strict=True):
        if strategy.rule == "adaptive":
            assert choice.lr_factor / math.sqrt(choice.size) == pytest.approx(1 / cut / math.sqrt(128), rel=TIGHT)
        elif strategy.match == "ratio":
            assert choice.lr_factor / choice.size == pytest.approx(1 / cut / strategy.size, rel=TIGHT)
        else:
            assert choice.lr_factor * (CIFAR / choice.size - 1) == pytest.approx((CIFAR / 128 - 1) / cut, rel=TIGHT)


def test_seesaw_has_its_square_root_in_the_rate() -> None:
    seesaw = Dual(100, rule="adaptive", match="ratio", growth=0.5, max_size=CIFAR)
    size, rate = seesaw(0.0, 0.25, CIFAR)
    assert size == 400
    assert rate == pytest.approx(0.5, rel=TIGHT)


def test_the_warm_up_stays_in_the_rate() -> None:
    schedule = schedules.Warmup(2, 0.1).before(schedules.Cosine(), 10)
    plan = Plan(schedule, Dual(64, rule="sgd", max_size=1000), 10_000, 10)
    bare = {u.epoch: u for u in replace(plan, schedule=schedules.Cosine(10))}
    for update in plan:
        assert update.effective_batch_size == bare[update.epoch].effective_batch_size
        warmup = min(1.0, 0.1 + 0.9 * update.epoch / 2)
        assert off(update.lr_factor, warmup * bare[update.epoch].lr_factor) <= TIGHT


def test_the_climb_of_onecycle_is_a_warm_up() -> None:
    plan = Plan(schedules.OneCycle(10), Dual(64, rule="sgd"), 10_000, 10)
    assert {u.planned_batch_size for u in plan if u.epoch < 3} == {64}
    climb = [u for u in plan if u.epoch < 3 and u.effective_batch_size == 64]
    assert [u.lr_factor for u in climb] == pytest.approx([schedules.OneCycle(10)(u.epoch) for u in climb], rel=TIGHT)
    assert max(u.planned_batch_size for u in plan) == 1000


@pytest.mark.parametrize(
    ("strategy", "drift"),
    [
        (Fixed(32), 0.5125),
        (Dual(32, rule="sgd"), 0.561),
        (Dual(32, rule="sgd", max_size=1293), 0.754),
        (Dual(32, rule="sgd", match="ratio"), 0.518),
    ],
)
def test_equal_noise_is_not_equal_drift_near_n(strategy: BatchStrategy, drift: float) -> None:
    """The sum of the learning rates over the last quarter of a cosine on the digits; docs/dual.md quotes these figures."""
    plan = Plan(schedules.Cosine(20), strategy, 1293, 20)
    assert sum(0.05 * u.lr_factor for u in plan if u.epoch >= 15) == pytest.approx(drift, abs=5e-4)


@pytest.mark.parametrize("match", ["exact", "ratio"])
@pytest.mark.parametrize("growth", [0.0, 0.3, 1.0])
def test_no_noise_at_all_is_no_division_by_zero(match: str, growth: float) -> None:
    for cap in (3, 7, 10, None):
        plan = Plan(schedules.Polynomial(1, 1), Dual(3, rule="sgd", match=match, growth=growth, max_size=cap), 10, 4)
        assert {plan.noise(update, 0.1) for update in plan if update.epoch >= 1} == {0.0}


@pytest.mark.parametrize("growth", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("rule", ["sgd", "adaptive"])
def test_where_rate_and_batch_share_the_noise_the_rate_goes_to_0_with_it(rule: str, growth: float) -> None:
    """lr = lr0 s^(1 - growth), with no jump back to lr0 when s reaches 0 and the batch reaches N."""
    dual = Dual(10, rule=rule, growth=growth, max_size=1000)
    assert dual(0.0, 1e-30, 1000).lr_factor < 0.01
    assert dual(0.0, 0.0, 1000).lr_factor == 0.0


# -- through a plan -----------------------------------------------------------------------------------------------------------


@many
@given(plan=matched_plans(), world=st.integers(1, 8), limit=st.none() | st.integers(1, 20))
def test_rate_and_batch_depend_on_neither_memory_nor_devices(plan: Plan, world: int, limit: int | None) -> None:
    other = list(replace(plan, world_size=world, max_micro_batch_size=limit))
    assert [replace(u, accumulate_grad_batches=0) for u in other] == [replace(u, accumulate_grad_batches=0) for u in plan]
    limits = [value for value in (limit, plan.strategy.micro_batch_size) if value is not None]
    for update in other:
        needed = math.ceil(update.effective_batch_size / (world * min(limits))) if limits else 1
        assert update.accumulate_grad_batches == needed


@pytest.mark.parametrize("ghost", [4, 16])
def test_ghost_batches_do_not_move_the_batch(ghost: int) -> None:
    plan = Plan(schedules.Cosine(3), Dual(10, rule="sgd", max_size=500), 1000, 3, 2, 64)
    cut = replace(plan, micro_batch_multiple=ghost)
    assert [(u.effective_batch_size, u.lr_factor) for u in cut] == [(u.effective_batch_size, u.lr_factor) for u in plan]
    for update in cut:
        sizes = [size for rank in range(2) for _, size in cut.pieces(update, rank)]
        assert sum(sizes) == update.effective_batch_size
        assert max(sizes) <= 64
        assert sum(size % ghost > 0 for size in sizes) <= 1


SMITH = schedules.MultiStep([60, 120, 160], 0.2)
IMAGENET = schedules.MultiStep([30, 60, 80], 0.1)
RATIO = Dual(128, rule="sgd", match="ratio", max_size=5120)
GOYAL = Dual(8192, rule="sgd", match="ratio", max_size=65_536)
SQUARE = CyclicBatch(128, 5, wave="square", rule="sgd", match="ratio")


@pytest.mark.parametrize(
    ("schedule", "strategy", "num_examples", "epochs", "kept", "dropped"),
    [
        pytest.param(SMITH, Fixed(128), CIFAR, 200, 78_200, 78_000, id="decaying rate"),
        pytest.param(SMITH, RATIO, CIFAR, 200, 29_240, 29_040, id="increasing batch"),
        pytest.param(SMITH, replace(RATIO, size=640), CIFAR, 200, 6_500, 6_300, id="larger initial rate"),
        pytest.param(SMITH, replace(RATIO, size=3200), CIFAR, 200, 2_360, 2_160, id="larger momentum"),
        pytest.param(IMAGENET, Fixed(8192), 1_281_167, 90, 14_130, None, id="ImageNet, decaying rate"),
        pytest.param(IMAGENET, GOYAL, 1_281_167, 90, 5_910, None, id="ImageNet, from 8192"),
        pytest.param(IMAGENET, replace(GOYAL, size=16_384), 1_281_167, 90, 3_570, None, id="ImageNet, from 16384"),
        pytest.param(IMAGENET, replace(GOYAL, size=32_768), 1_281_167, 90, 2_400, None, id="ImageNet, from 32768"),
        pytest.param(schedules.Constant(), SQUARE, 45_000, 300, 63_450, None, id="Jastrzebski et al., cyclic batch"),
        pytest.param(schedules.Constant(), Fixed(128), 45_000, 300, 105_600, None, id="Jastrzebski et al., cyclic rate"),
    ],
)
def test_updates_of_published_runs(
    schedule: Schedule, strategy: BatchStrategy, num_examples: int, epochs: int, kept: int, dropped: int | None
) -> None:
    plan = Plan(schedule, strategy, num_examples, epochs)
    assert plan.total_updates() == kept
    if dropped is not None:
        assert replace(plan, strategy=replace(strategy, last="drop")).total_updates() == dropped


@pytest.mark.parametrize(("shape", "mean"), [("half", 1 / 2), ("quarter", 2 / math.pi)])
def test_the_dual_takes_the_mean_of_s_of_the_updates(shape: str, mean: float) -> None:
    primal = Plan(schedules.Cosine(10, shape=shape), Fixed(50, last="carry"), CIFAR, 10)
    dual = replace(primal, strategy=Dual(50, rule="sgd", max_size=CIFAR, last="carry"))
    assert dual.total_updates() / primal.total_updates() == pytest.approx(mean, rel=0.01)


# -- waves --------------------------------------------------------------------------------------------------------------------


@many
@given(data=st.data(), n=st.integers(2, 5000), peak=st.floats(1e-3, 10.0))
def test_a_cyclic_batch_is_a_cyclic_rate_in_noise(data: st.DataObject, n: int, peak: float) -> None:
    """With a constant learning rate, the cyclic batch has the same g as the cyclic learning rate, at every update of either plan."""
    wave = replace(data.draw(waves(n)), rule="sgd", match="exact", lr_rule="none")
    base = wave.base_factor * peak
    schedule = schedules.Cyclic(wave.step_size_up, wave.step_size_down, wave.mode, wave.gamma, base, peak, wave.wave)
    fixed = Fixed(wave.size, last=wave.last)
    batch = Plan(schedules.Constant(), wave, n, 3, max_updates=60)
    rate = replace(batch, schedule=schedule, strategy=fixed)
    for epoch in [update.epoch for plan in (batch, rate) for update in plan]:
        size, factor = wave(epoch, 1.0, n)
        scaled = schedule(epoch) * (n - wave.size) / wave.size
        assert off(factor * (n - size) / size, scaled) <= TIGHT


def test_the_dual_of_a_triangle_is_a_hyperbola() -> None:
    """lr .001 to .005 at B0 = 128: the middle, .003, becomes B = 213, not 384; the other end becomes 634, or 640 with match=ratio."""
    wave = CyclicBatch(128, 5, rule="sgd")
    assert [wave.size_at(epoch, 1.0, CIFAR) for epoch in (0, 2.5, 5, 7.5, 10)] == [634, 213, 128, 213, 634]
    ratio = replace(wave, match="ratio")
    assert [ratio.size_at(epoch, 1.0, CIFAR) for epoch in (0, 2.5, 5, 7.5, 10)] == [640, 213, 128, 213, 640]


def test_a_square_wave_has_two_batches() -> None:
    plan = Plan(schedules.Constant(), SQUARE, 45_000, 20)
    assert {u.planned_batch_size for u in plan} == {128, 640}
    assert {math.floor(u.epoch / 5) % 2 for u in plan if u.planned_batch_size == 128} == {0}
    assert {u.lr_factor for u in plan if whole(u)} == {1.0}


@pytest.mark.parametrize(("mode", "gamma"), [("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.9)])
@pytest.mark.parametrize("match", ["exact", "ratio"])
def test_where_the_bound_of_the_rate_decays_the_smallest_batch_rises(mode: str, gamma: float, match: str) -> None:
    wave = CyclicBatch(128, 2, mode=mode, gamma=gamma, rule="sgd", match=match)
    smallest = [wave.size_at(2.0 + 4 * cycle, 1.0, CIFAR) for cycle in range(6)]
    largest = {wave.size_at(4.0 * cycle, 1.0, CIFAR) for cycle in range(6)}
    if mode == "triangular":
        assert set(smallest) == {128}
    else:
        assert smallest == sorted(set(smallest))
        assert smallest[-1] > 1.5 * smallest[0]
    assert largest == {634 if match == "exact" else 640}


# -- counterparts -------------------------------------------------------------------------------------------------------------


@st.composite
def any_strategy(draw: st.DrawFn, n: int) -> BatchStrategy:
    """Any strategy, including those that scale the learning rate with the batch."""
    keys: dict[str, Any] = {
        "lr_rule": draw(st.sampled_from(["none", "linear", "sqrt"])),
        "reference_size": draw(st.integers(1, 64)),
        "last": draw(st.sampled_from(LAST_WINDOW)),
    }
    size = draw(st.integers(1, n - 1))
    kinds: list[st.SearchStrategy[BatchStrategy]] = [
        st.just(Fixed(size, **keys)),
        st.just(batching.MultiStep(size, [0.4, 1, 2.5], draw(st.floats(1, 6)), **keys)),
        st.just(batching.Linear(size, draw(st.integers(1, n)), draw(st.floats(0.2, 5)), **keys)),
        duals(n),
        waves(n),
    ]
    return draw(st.one_of(kinds))


def noise_at(plan: Plan, epoch: float, power: float, match: str) -> float:
    """lr n(B)^p over lr0, at any epoch."""
    warmup, factor = warmup_and_rest(plan.schedule, epoch)
    size, rate = plan.strategy(epoch, factor, plan.num_examples, warmup)
    return rate * math.pow(n_of(match, plan.num_examples, size), power)


@many
@given(data=st.data(), n=st.integers(2, 5000), rule=st.sampled_from(["sgd", "adaptive"]), clock=st.lists(st.floats(0, 4), max_size=20))
def test_a_counterpart_has_the_same_noise_and_so_has_its_own(data: st.DataObject, n: int, rule: str, clock: list[float]) -> None:
    strategy = data.draw(any_strategy(n))
    plan = Plan(data.draw(warmed()), strategy, n, 4, max_updates=50)
    rule, match = (str(strategy.rule), strategy.match) if isinstance(strategy, Matched) else (rule, "exact")
    other = counterpart(plan, rule)
    assert other is not None
    back = counterpart(other, rule)
    assert back is not None
    assert isinstance(other.strategy, Dual if isinstance(strategy, Fixed) else Fixed)
    assert isinstance(back.strategy, Dual if isinstance(other.strategy, Fixed) else Fixed)
    assert other.strategy.last == strategy.last
    for epoch in [0.0, *clock, *(u.epoch for u in plan)]:
        wanted = noise_at(plan, epoch, POWER[rule], match)
        assert off(noise_at(other, epoch, POWER[rule], match), wanted) <= TIGHT
    if match == "exact":
        for epoch in [0.0, *clock]:
            assert off(noise_at(back, epoch, POWER[rule], match), noise_at(plan, epoch, POWER[rule], match)) <= 4 * TIGHT


def test_the_counterpart_of_a_constant_batch_is_its_dual() -> None:
    plan = Plan(schedules.Cosine(20), Fixed(32, last="spread", match_last=True), 1293, 20, 2, 8)
    assert counterpart(plan) == replace(plan, strategy=Dual(32, rule="sgd", last="spread", match_last=True))
    assert counterpart(plan, "adaptive") == replace(plan, strategy=Dual(32, rule="adaptive", last="spread", match_last=True))


def test_the_counterpart_of_a_dual_is_its_schedule_at_b0() -> None:
    plan = Plan(schedules.Warmup(2, 0.1).before(schedules.Cosine(), 20), Dual(32, rule="sgd"), 1293, 20)
    other = counterpart(plan)
    assert other is not None
    assert other.strategy == Fixed(32, match_last=plan.strategy.match_last)
    assert [other.schedule(t / 7) for t in range(140)] == [plan.schedule(t / 7) for t in range(140)]
    assert other.total_updates() == 820


def test_there_and_back_the_warm_up_is_still_in_the_rate() -> None:
    plan = Plan(schedules.Warmup(2, 0.1).before(schedules.Cosine(), 20), Dual(32, rule="sgd"), 1293, 20)
    other = counterpart(plan)
    assert other is not None
    back = counterpart(other)
    assert back is not None
    assert [(u.start, u.effective_batch_size) for u in back] == [(u.start, u.effective_batch_size) for u in plan]
    assert max(off(a.lr_factor, b.lr_factor) for a, b in zip(back, plan, strict=True)) <= TIGHT


@pytest.mark.parametrize("strategy", [Full(), Fixed(50)])
def test_a_full_batch_has_no_counterpart(strategy: BatchStrategy) -> None:
    assert counterpart(Plan(schedules.Cosine(3), strategy, 50, 3)) is None


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [("SGD", "sgd"), ("torch.optim.SGD", "sgd"), ("ASGD", "sgd"), ("Adam", "adaptive"), ("torch.optim.RMSprop", "adaptive")],
)
def test_a_rule_left_open_follows_the_optimizer(optimizer: str, rule: str) -> None:
    assert resolve_rule(Dual(32), optimizer) == Dual(32, rule=rule)
    assert resolve_rule(CyclicBatch(32, 2), optimizer) == CyclicBatch(32, 2, rule=rule)
    for settled in (Dual(32, rule="sgd"), Dual(32, rule="adaptive"), Fixed(32), Full()):
        assert resolve_rule(settled, optimizer) is settled


# -- refusals -----------------------------------------------------------------------------------------------------------------


GROWTH = "must be a finite number in [0, 1]; 0 decays the learning rate, 1 grows the batch"
CAP = "must be a whole number of examples, at least 32; the batch starts at `size`; null for N/10"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Dual(0), "size=0: must be a whole number of examples, at least 1"),
        (lambda: Dual(32, growth=2), f"growth=2: {GROWTH}"),
        (lambda: Dual(32, growth=-0.1), f"growth=-0.1: {GROWTH}"),
        (lambda: Dual(32, growth=math.nan), f"growth=nan: {GROWTH}"),
        (lambda: Dual(32, rule="x"), "rule=x: must be one of sgd, adaptive"),
        (lambda: Dual(32, match="x"), "match=x: must be one of exact, ratio"),
        (lambda: Dual(32, max_size=31), f"max_size=31: {CAP}"),
        (lambda: Dual(32, max_size=64.0), f"max_size=64.0: {CAP}"),  # type: ignore[arg-type]
        (lambda: Dual(32, match_last=3), "match_last=3: must be true or false"),  # type: ignore[arg-type]
        (lambda: Dual(32, last="x"), "last=x: must be one of carry, partial, drop, spread"),
        (
            lambda: Dual(32, lr_rule="linear"),
            "lr_rule=linear: needs a reference_size, the batch that lr is quoted for; for example reference_size=128",
        ),
        (lambda: CyclicBatch(32, 2, base_factor=0), "base_factor=0: must be a finite number in (0, 1]"),
        (lambda: CyclicBatch(32, 2, base_factor=1.1), "base_factor=1.1: must be a finite number in (0, 1]"),
        (lambda: CyclicBatch(32, 0), "step_size_up=0: must be a finite number in (0, inf), in epochs"),
        (lambda: CyclicBatch(32, 2, -1), "step_size_down=-1: must be a finite number in (0, inf), in epochs"),
        (lambda: CyclicBatch(32, 2, mode="x"), "mode=x: must be one of triangular, triangular2, exp_range"),
        (lambda: CyclicBatch(32, 2, wave="x"), "wave=x: must be one of triangle, square"),
        (lambda: CyclicBatch(32, 2, gamma=0), "gamma=0: must be a finite number in (0, 1]"),
    ],
)
def test_refusals(make: Callable[[], Matched], line: str) -> None:
    assert refusal_of(make) == line


FULL = "must be below N = 100: a full batch has no noise to match; use batch=full"
BEYOND = "must be at most N = 100, the examples of one pass; use batch=full for all of them"


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (Dual(100, rule="sgd"), f"size=100: {FULL}"),
        (CyclicBatch(100, 2, rule="adaptive"), f"size=100: {FULL}"),
        (Dual(101, rule="sgd"), f"size=101: {BEYOND}"),
        (Dual(32, rule="sgd", max_size=101), f"max_size=101: {BEYOND}"),
        (Dual(32), "rule=null: there is no optimizer to take it from; set it to sgd or adaptive"),
        (CyclicBatch(32, 2), "rule=null: there is no optimizer to take it from; set it to sgd or adaptive"),
        (Dual(30, rule="sgd", micro_batch_size=16), "size=30: must be a multiple of micro_batch_size=16; for example 16"),
        (Dual(32, rule="sgd", max_size=50, micro_batch_size=16), "max_size=50: must be a multiple of micro_batch_size=16; for example 48"),
    ],
)
def test_what_n_examples_cannot_carry_is_refused_before_the_first_update(strategy: Matched, line: str) -> None:
    assert refusal_of(lambda: Plan(schedules.Constant(), strategy, 100, 1)) == line


def test_n_of_1_has_no_batch_that_could_carry_noise() -> None:
    line = "size=1: must be below N = 1: a full batch has no noise to match; use batch=full"
    assert refusal_of(lambda: Plan(schedules.Constant(), Dual(1, rule="sgd"), 1, 1)) == line


# -- the table: every schedule with every dual, as conf/ has them -------------------------------------------------------------

SCHEDULERS = sorted({file.stem for file in (CONF / "scheduler").glob("[!_]*.yaml")} - {"none"})  # which is not for a dual
DUALS = ("dual", "hybrid", "split", "seesaw", "cyclic")


class Options(NamedTuple):
    schedules: dict[str, Schedule]
    strategies: dict[str, BatchStrategy]


@pytest.fixture(scope="module")
def options() -> Iterator[Options]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = {name: build(compose("config", ["output_dir=somewhere", f"scheduler={name}"]), "scheduler") for name in SCHEDULERS}
        batches = {name: build(compose("config", ["output_dir=somewhere", f"batch={name}"]), "batch") for name in DUALS}
        yield Options(made, {name: resolve_rule(strategy, "SGD") for name, strategy in batches.items()})


@pytest.mark.parametrize("batch", DUALS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_schedule_has_its_noise_in_every_dual(scheduler: str, batch: str, options: Options) -> None:
    n, epochs, lr = 1293, 20, 0.05
    schedule, strategy = options.schedules[scheduler].with_horizon(epochs), options.strategies[batch]
    assert isinstance(strategy, Matched)
    plan = Plan(schedule, strategy, n, epochs)
    full = [update for update in plan if whole(update) or strategy.match_last]
    assert len(full) > 60
    for update in full:
        size, level = update.effective_batch_size, schedule(update.epoch) * wave_at(strategy, update.epoch)
        if batch == "seesaw":
            assert off(update.lr_factor / math.sqrt(size), level / math.sqrt(32)) <= TIGHT
        else:
            assert off(plan.noise(update, lr), level * lr * (n - 32) / 32) <= TIGHT
    largest = max(update.effective_batch_size for update in full)
    assert (largest > 32) == (scheduler != "constant" or batch == "cyclic")
    assert largest == 129 or batch != "dual" or scheduler == "constant"

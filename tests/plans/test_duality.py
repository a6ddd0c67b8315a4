"""The dual of every schedule: however the batch carries the noise, each update has the noise that the schedule sets."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans.duality import Dual, Matched
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import BatchStrategy, Fixed
from noisescale.schedules import warmup_and_rest
from tests.helpers.duality import CIFAR, POWER, TIGHT, many, n_of, off, wave_at, whole
from tests.helpers.plans import duals, matched_plans, warmed


def strategy_of(plan: Plan) -> Matched:
    assert isinstance(plan.strategy, Matched)
    return plan.strategy


def quoted(strategy: BatchStrategy, size: int) -> float:
    """(B/B_ref)^p, the scaling of the learning rate."""
    if strategy.reference_size is None or strategy.lr_rule == "none":
        return 1.0
    ratio = size / strategy.reference_size
    return ratio if strategy.lr_rule == "linear" else math.sqrt(ratio)


def noise_and_target(plan: Plan, update: Update) -> tuple[float, float]:
    """(lr n(B)^p of an update over lr0, and its target w s c n(B0)^p, with lr0 scaled for B0)."""
    strategy, n = strategy_of(plan), plan.num_examples
    assert strategy.rule is not None
    power = POWER[strategy.rule]
    warmup, factor = warmup_and_rest(plan.schedule, update.epoch)
    level = warmup * factor * wave_at(strategy, update.epoch) * quoted(strategy, strategy.size)
    noise = update.lr_factor * math.pow(n_of(strategy.match, n, update.effective_batch_size), power)
    return noise, level * math.pow(n_of(strategy.match, n, strategy.size), power)


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

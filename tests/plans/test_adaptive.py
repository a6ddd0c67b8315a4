"""Batches that are decided during the training: what they make of a measurement, and that they change nothing before it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.plans import Dual, Fixed, FollowNoise, GrowOnPlateau, Plan
from noisescale.plans.bounds import bounds_in_words, size_bounds, update_bounds
from noisescale.plans.strategies import BatchStrategy
from noisescale.plans.warnings import idle_warnings
from noisescale.schedules import Constant, Plateau, Schedule

N = 500
readings = st.lists(st.floats(0.1, 2000.0) | st.just(math.nan), max_size=8)


def after(strategy: BatchStrategy, name: str, values: Sequence[float]) -> BatchStrategy:
    for epoch, value in enumerate(values, 1):
        strategy = strategy.observed(epoch, {name: value})
    return strategy


def sizes(strategy: BatchStrategy, epochs: int) -> list[int]:
    return [strategy.size_at(epoch, 1.0, N) for epoch in range(epochs)]


def test_the_batch_follows_the_noise_in_steps_that_are_bounded() -> None:
    found = after(FollowNoise(32, min_size=20, max_size=300), "noise/gns", [100, 100, 3000, math.nan, 3000, 3000, 5, 5, 5, 5, 5])
    assert sizes(found, 12) == [32, 64, 100, 200, 200, 300, 300, 150, 75, 38, 20, 20]
    assert sizes(after(FollowNoise(32, ratio=0.2, max_change=100), "noise/gns", [100, 4000]), 3) == [32, 20, N // 10]
    assert sizes(after(FollowNoise(32, "sqrt", ratio=9.0, max_size=N, max_change=100), "noise/gns", [100, 400]), 3) == [32, 30, 60]
    assert sizes(after(FollowNoise(4, max_change=1.1), "noise/gns", [1000] * 3), 4) == [4, 4, 5, 5]  # 4.4, 4.84, 5.3


def test_a_lower_end_by_itself_moves_the_batch_up_and_never_down() -> None:
    strategy: BatchStrategy = FollowNoise(32, max_size=300, max_change=3.0)
    for epoch, (value, low) in enumerate([(math.nan, 50.0), (math.nan, 20.0), (math.nan, -math.inf), (40.0, 20.0), (math.nan, 80.0)], 1):
        strategy = strategy.observed(epoch, {"noise/gns": value, "noise/gns_low": low})
    assert sizes(strategy, 6) == [32, 50, 50, 50, 40, 80]
    root = FollowNoise(32, "sqrt", ratio=9.0, max_size=300).observed(1, {"noise/gns": math.nan, "noise/gns_low": 196.0})
    assert sizes(root, 2) == [32, 42]


def test_each_stall_divides_the_noise_by_the_factor_by_the_batch_and_then_by_the_rate() -> None:
    stalls = after(GrowOnPlateau(20, factor=3, max_size=100, patience=0), "val/loss", [1.0] * 5)
    choices = [stalls(epoch, 1.0, N) for epoch in range(1, 6)]
    assert [choice.size for choice in choices] == [20, 60, 100, 100, 100]
    assert [choice.lr_factor / choice.size for choice in choices] == pytest.approx([1 / 20 / 3**k for k in range(5)])
    assert choices[1].lr_factor == 1
    assert GrowOnPlateau(20).cap(N) == 50
    assert GrowOnPlateau(60).cap(N) == 60


def test_a_very_long_training_stays_finite() -> None:
    stalls = after(GrowOnPlateau(20, factor=1e9, patience=0), "val/loss", [1.0] * 200)
    size, factor = stalls(201, 1.0, N)
    assert size == 50
    assert 0 < factor < 1e-200


@st.composite
def adaptive_plans(draw: st.DrawFn) -> Plan:
    size = draw(st.integers(1, 60))
    common: dict[str, Any] = {"last": draw(st.sampled_from(["carry", "partial", "drop", "spread"]))}
    schedule: Schedule = draw(st.sampled_from([Constant(), Plateau(patience=0)]))
    strategy: BatchStrategy = draw(
        st.sampled_from(
            [
                FollowNoise(size, min_size=1, max_size=draw(st.none() | st.just(100)), max_change=3.0, **common),
                GrowOnPlateau(size, factor=2.5, patience=0, **common),
                Dual(size, rule="sgd", **common),
                Fixed(size, **common),
            ]
        )
    )
    return Plan(schedule, strategy, N, 6)


@settings(max_examples=40)
@given(adaptive_plans(), readings)
def test_a_reading_changes_no_update_before_it_and_bounds_hold(plan: Plan, values: list[float]) -> None:
    bounds, updates = size_bounds(plan), update_bounds(plan)
    for epoch, value in enumerate(values[:5], 1):
        decided = plan.observed(epoch, {"noise/gns": value, "val/loss": value})
        before = [update for update in plan if update.epoch < epoch]
        assert [update for update in decided if update.epoch < epoch] == before
        plan = decided
        # the stretches know how long nothing changes
        assert list(plan) == list(replace(plan, schedule=lambda epoch, schedule=plan.schedule: schedule(epoch)))  # type: ignore[misc]
    planned = {update.planned_batch_size for update in plan}
    assert bounds[0] <= min(planned) <= max(planned) <= bounds[1]
    assert updates is not None
    assert updates[0] <= plan.total_updates() <= updates[1]


def test_a_plan_says_what_it_goes_by_and_its_bounds() -> None:
    plan = Plan(Plateau("val/acc", mode="max"), FollowNoise(32, max_size=200), N, 10)
    assert plan.monitors == {"noise/gns", "noise/gns_low", "val/acc"}
    assert bounds_in_words(plan, 0.1) == [
        "decided at the end of each epoch, from noise/gns, noise/gns_low, val/acc; there is no table before the training",
        "B: 32 at the start, 1 to 200 later, changed by at most 2x from one epoch to the next",
        "lr: 0.1 at the start",
        "updates: 20 to 5000",
    ]
    assert Plan(Constant(), Fixed(4), N, 10).monitors == frozenset()
    assert idle_warnings(Plan(Plateau(), Dual(32, rule="sgd"), N, 10)) == []
    assert idle_warnings(Plan(Constant(), Dual(32, rule="sgd"), N, 10)) != []


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: FollowNoise(32, "cube"), "follow=cube: must be one of linear, sqrt"),
        (lambda: FollowNoise(32, ratio=0), "ratio=0: must be a finite number in (0, inf)"),
        (lambda: FollowNoise(32, max_change=1), "max_change=1: must be a finite number in (1, inf)"),
        (lambda: FollowNoise(32, min_size=33), "size=32: must be a whole number of examples, at least 33"),
        (lambda: FollowNoise(32, max_size=31), "size=32: must be a whole number of examples, 1 to 31"),
        (lambda: FollowNoise(32, min_size=0), "min_size=0: must be a whole number of examples, at least 1"),
        (lambda: Plan(Constant(), FollowNoise(32, max_size=900), N, 1), f"max_size=900: must be at most N = {N}"),
        (lambda: GrowOnPlateau(32, factor=1), "factor=1: must be a finite number in (1, inf)"),
        (lambda: GrowOnPlateau(32, max_size=31), "max_size=31: must be a whole number of examples, at least 32; null for N/10"),
        (lambda: GrowOnPlateau(32, patience=-1), "patience=-1: must be a whole number of readings, at least 0"),
        (lambda: Plan(Constant(), GrowOnPlateau(900), N, 1), f"size=900: must be at most N = {N}"),
    ],
)
def test_refusals(make: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        make()

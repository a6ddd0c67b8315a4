"""The counterpart of a plan: the same noise, carried by the batch instead of the learning rate, or the other way round."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans import strategies as batching
from noisescale.plans.duality import Dual, Matched, counterpart
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import LAST_WINDOW, BatchStrategy, Fixed, Full
from noisescale.schedules import warmup_and_rest
from tests.helpers.duality import POWER, TIGHT, many, n_of, off
from tests.helpers.plans import duals, warmed, waves


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

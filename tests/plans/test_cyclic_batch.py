"""The cyclic batch: the noise of a cyclic learning rate, and the sizes of triangles and square waves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans.duality import CyclicBatch
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import Fixed
from tests.helpers.duality import CIFAR, SQUARE, TIGHT, many, off, whole
from tests.helpers.plans import waves


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

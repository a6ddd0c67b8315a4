"""Plans of duals: memory, devices and ghost batches do not move the batch, and published runs have their updates."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans.duality import Dual
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed
from noisescale.schedules import Schedule
from tests.helpers.duality import CIFAR, SQUARE, many
from tests.helpers.plans import matched_plans


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

"""The batch is exact: every update is compared with hand-written PyTorch that uses real big batches."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.errors import ConfigError
from noisescale.execution.random_generators import seed_random_generators
from noisescale.plans import strategies as batching
from tests.helpers.regression import STRATEGIES, N, Plain, Regression, network
from tests.helpers.rounding import GRADIENT_ROUNDINGS, assert_equal_to_rounding
from tests.helpers.trainings import GradientErrors, Rates, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

UPDATES = 100
"""More than a run of three epochs has; each takes a sum over at most N examples."""
LAST = ("partial", "carry", "drop", "spread")


def with_last(strategy: batching.BatchStrategy, last: str) -> batching.BatchStrategy:
    from dataclasses import replace

    return replace(strategy, last=last)


def reference(scheduler: BatchSizeScheduler, dtype: torch.dtype, epochs: int, clip: float | None = None) -> Tensor:
    """Training by hand, without micro-batches and Lightning: one forward and one backward pass per update."""
    data, net = Regression(dtype), network(dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    loader, plan = scheduler.loader, scheduler.plan
    assert loader is not None
    for update in plan:
        indices = loader.indices(update.start.position, update.effective_batch_size)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * update.lr_factor
        optimizer.zero_grad()
        F.mse_loss(net(data.x[indices]), data.y[indices]).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.cases(16)
@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_update_has_the_gradient_of_one_big_batch(name: str, last: str, dtype: torch.dtype) -> None:
    errors = GradientErrors(Regression(dtype))
    scheduler = BatchSizeScheduler(with_last(STRATEGIES[name], last), schedules.Cosine(), max_micro_batch_size=4, seed=1)
    module = Plain(network(dtype))
    trainer = fit(module, scheduler, errors)
    assert len(errors.errors) == trainer.global_step == scheduler.plan.total_updates()
    tolerance = GRADIENT_ROUNDINGS * torch.finfo(dtype).eps
    assert max(errors.errors) <= tolerance
    expected = reference(scheduler, dtype, 3)
    # With momentum a step sums about ten gradients, times a learning rate of a tenth, so its error is about that of a gradient.
    assert float((weights(module) - expected).norm() / expected.norm()) <= 20 * tolerance


@pytest.mark.cases(12)
@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_update_has_the_planned_examples_each_once_per_pass(name: str, last: str) -> None:
    scheduler = BatchSizeScheduler(with_last(STRATEGIES[name], last), max_micro_batch_size=6)
    module = Plain(network())
    fit(module, scheduler)
    micro = iter(module.seen)
    stream: dict[int, list[int]] = {}
    for update in scheduler.plan:
        parts = [next(micro) for _ in range(update.accumulate_grad_batches)]
        assert all(len(part) <= 6 for part in parts)
        got = [index for part in parts for index in part]
        assert len(got) == update.effective_batch_size
        for offset, index in enumerate(got):
            stream.setdefault((update.start.position + offset) // N, []).append(index)
    assert next(micro, None) is None
    for number, examples in stream.items():
        assert len(set(examples)) == len(examples), "an example came twice in a pass"
        if last in ("partial", "spread") or (last == "carry" and number < 3):
            assert sorted(examples) == list(range(N))
    assert len({tuple(examples[:20]) for examples in stream.values()}) == len(stream), "two passes in the same order"


@pytest.mark.parametrize("limit", [1, 3, 8, 50, None])
def test_the_micro_batch_limit_does_not_change_the_result(limit: int | None) -> None:
    module = Plain(network())
    fit(module, BatchSizeScheduler(STRATEGIES["growing"], schedules.Step(1, 0.5), max_micro_batch_size=limit))
    alone = Plain(network())
    fit(alone, BatchSizeScheduler(STRATEGIES["growing"], schedules.Step(1, 0.5)))
    assert_equal_to_rounding(weights(module), weights(alone), UPDATES * N)


@pytest.mark.parametrize("clip", [0.05, 1.0])
def test_clipping_sees_the_gradient_of_the_whole_update(clip: float) -> None:
    scheduler = BatchSizeScheduler(STRATEGIES["growing"], schedules.Constant(), max_micro_batch_size=4)
    module = Plain(network())
    fit(module, scheduler, gradient_clip_val=clip)
    assert_equal_to_rounding(weights(module), reference(scheduler, torch.float64, 3, clip), UPDATES * N)


def test_bf16_mixed_differs_by_the_rounding_of_bf16_only() -> None:
    errors = GradientErrors(Regression(torch.float32))
    fit(
        Plain(network(torch.float32)),
        BatchSizeScheduler(STRATEGIES["odd micro-batches"], max_micro_batch_size=4),
        errors,
        precision="bf16-mixed",
    )
    # The reference is computed in fp32, so this bounds the error of bf16 (2^-8 = 4e-3 in each of a dozen operations), not of the weighting.
    assert max(errors.errors) < 0.05


def test_without_the_weights_unequal_micro_batches_would_be_wrong() -> None:
    """A negative control: without the weighting of micro-batches the error is large."""

    class Unweighted(BatchSizeScheduler):
        def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
            self._guards.backward()

    errors = GradientErrors(Regression())
    fit(Plain(network()), Unweighted(batching.Fixed(size=10), max_micro_batch_size=4), errors)
    exact = [error for error in errors.errors if error < 1e-12]
    assert max(errors.errors) > 1e-3
    assert len(exact) < len(errors.errors) / 2


# -- workers, random numbers, order --------------------------------------------------------------------------------------------


class Jittered(Dataset[tuple[Tensor, Tensor, int]]):
    """Random transforms with torch, numpy and random, as users write them."""

    def __init__(self) -> None:
        self.data = Regression()

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        x, y, _ = self.data[index]
        return x + torch.randn(5).double() + float(np.random.rand()) + random.random(), y, index  # noqa: NPY002


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_a_bit(workers: int) -> None:
    results = []
    for count in (0, workers):
        module = Plain(network(dropout=0.3))
        fit(
            module,
            BatchSizeScheduler(STRATEGIES["growing"], schedules.Cosine(), max_micro_batch_size=5),
            data=Jittered(),
            workers=count,
            max_epochs=2,
        )
        results.append(weights(module))
    assert torch.equal(*results)


@pytest.mark.parametrize("seed", [0, 12345, 2**63 + 7])
def test_a_seed_gives_the_numbers_that_torch_numpy_and_random_give_for_it(seed: int) -> None:
    seed_random_generators(seed)
    drawn = torch.rand(3).tolist(), np.random.rand(), random.random()  # noqa: NPY002 - the global generator is the one that is seeded
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    assert drawn == (torch.rand(3).tolist(), np.random.rand(), random.Random(seed).random())  # noqa: NPY002


def test_seeds_give_orders_and_a_loader_that_is_not_shuffled_stays_in_order() -> None:
    orders = []
    for seed, shuffle in ((0, True), (0, True), (1, True), (0, False)):
        module = Plain(network())
        fit(module, BatchSizeScheduler(batching.Fixed(size=10), seed=seed), shuffle=shuffle, max_epochs=1)
        orders.append([index for part in module.seen for index in part])
    assert orders[0] == orders[1] != orders[2]
    assert orders[3] == list(range(N))


# -- the rate ------------------------------------------------------------------------------------------------------------------


def two_groups(parameters: Any) -> torch.optim.Optimizer:
    group: list[Tensor] = list(parameters)
    first, others = group[:1], group[1:]
    groups: list[dict[str, Any]] = [{"params": first, "lr": 0.3}, {"params": others}]
    return torch.optim.SGD(groups, lr=0.1)


def test_the_rate_of_every_update_is_the_plans_and_groups_keep_their_ratio() -> None:
    rates = Rates()
    scheduler = BatchSizeScheduler(STRATEGIES["scaled"], schedules.Cosine(), max_micro_batch_size=4)
    fit(Plain(network(), two_groups), scheduler, rates)
    assert rates.rates == [[0.3 * update.lr_factor, 0.1 * update.lr_factor] for update in scheduler.plan]


def test_without_a_schedule_the_modules_own_scheduler_is_left_alone() -> None:
    class Own(Plain):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}

    rates = Rates()
    fit(Own(network()), BatchSizeScheduler(batching.Full()), rates)
    assert [rate for (rate,) in rates.rates] == pytest.approx([0.1, 0.05, 0.025])
    with pytest.raises(ConfigError, match="lr_scheduler=ExponentialLR: the plan sets the learning rate"):
        fit(Own(network()), BatchSizeScheduler(batching.Full(), schedules.Cosine()))


# -- limits, and what is refused ------------------------------------------------------------------------------------------------


def test_max_steps_and_limit_train_batches_count_updates() -> None:
    assert (
        fit(Plain(network()), BatchSizeScheduler(batching.Fixed(size=10), max_micro_batch_size=3), max_steps=7, max_epochs=-1).global_step
        == 7
    )
    module = Plain(network())
    trainer = fit(module, BatchSizeScheduler(batching.Fixed(size=10), max_micro_batch_size=3), limit_train_batches=2)
    assert trainer.global_step == 6
    assert trainer.limit_train_batches == 2
    assert trainer.accumulate_grad_batches == 1
    assert len(module.seen) == 6 * 4


def test_fast_dev_run_takes_one_update() -> None:
    assert fit(Plain(network()), BatchSizeScheduler(batching.Fixed(size=10), max_micro_batch_size=3), fast_dev_run=True).global_step == 1


@pytest.mark.parametrize(("size", "limit"), [(48, 24), (80, 24), (96, 40), (64, None)])
def test_ghost_batches_are_the_same_however_the_update_is_cut(size: int, limit: int | None) -> None:
    from noisescale.models import GhostBatchNorm2d

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = GhostBatchNorm2d(5, 8).double()
            self.out = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x[:, :, None, None])[:, :, 0, 0])  # type: ignore[no-any-return]

    results = []
    for each in (limit, None):
        images = Images()
        module = Plain(images)
        fit(module, BatchSizeScheduler(batching.Fixed(size=size, last="drop"), max_micro_batch_size=each, micro_batch_multiple=8))
        assert images.norm.running_var is not None
        results.append(torch.cat([weights(module), images.norm.running_var]))
    assert_equal_to_rounding(results[0], results[1], UPDATES * N)

"""The loss on fixed examples and the noise of the gradients there: right, and without a trace in the training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from noisescale.callbacks import BatchSizeScheduler
from noisescale.measures.fixed_loss import FixedExamples, gradient_noise
from noisescale.plans import Fixed
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Look(pl.Callback):
    """Measures the loss before the first update and after each, and the noise once."""

    def __init__(self, fixed: FixedExamples, pieces: int = 20) -> None:
        self.fixed, self.pieces = fixed, pieces
        self.losses: list[float] = []
        self.noise: list[tuple[float, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.noise.append(self.fixed.gradient_noise(trainer, pl_module, self.pieces))
        self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.losses.append(self.fixed.loss(trainer, pl_module))


def trained(look: Look | None, **options: Any) -> Plain:
    module = Plain(network(**options))
    fit(module, BatchSizeScheduler(Fixed(size=32), seed=3), *([] if look is None else [look]), max_epochs=1)
    return module


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5, "norm": True}])
def test_training_is_bitwise_equal_with_it(options: dict[str, Any]) -> None:
    with_it, without = trained(Look(FixedExamples(50)), **options), trained(None, **options)
    assert torch.equal(weights(with_it), weights(without))
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in with_it.state_dict().items())


def test_the_loss_is_the_mean_over_the_examples_whatever_the_chunks() -> None:
    whole, chunks = Look(FixedExamples(1000)), Look(FixedExamples(1000, chunk_size=7))
    trained(whole)
    trained(chunks)
    data, net = Regression(), network()
    expected = float(F.mse_loss(net(data.x), data.y).detach())
    assert whole.losses == pytest.approx(chunks.losses, rel=1e-12)
    assert whole.losses[0] == pytest.approx(expected, rel=1e-12)
    assert whole.losses[-1] < whole.losses[0]


def test_a_weighted_loss_is_the_mean_over_the_weights() -> None:
    def weight(batch: tuple[Tensor, ...]) -> float:
        return float(batch[2].min())  # of a chunk of a single example its index

    look = Look(FixedExamples(1000, chunk_size=1, weight=weight))
    trained(look)
    data, net = Regression(), network()
    each = F.mse_loss(net(data.x), data.y, reduction="none").mean(1)
    index = torch.arange(N).double()
    assert look.losses[0] == pytest.approx(float((each * index).sum().detach() / index.sum()), rel=1e-12)


def test_the_gradient_noise_is_that_of_the_exact_per_example_gradients() -> None:
    look = Look(FixedExamples(1000), pieces=N)
    trained(look)
    data, net = Regression(), network()
    gradients = []
    for i in range(N):
        net.zero_grad()
        F.mse_loss(net(data.x[i : i + 1]), data.y[i : i + 1]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    each = torch.stack(gradients)
    trace = float(each.var(0).sum())
    assert look.noise[0][0] == pytest.approx(trace, rel=1e-9)
    assert look.noise[0][1] == pytest.approx(float(each.mean(0).square().sum()) - trace / N, rel=1e-9)


def test_pieces_of_several_examples_give_the_same_noise_on_average() -> None:
    """The mean over random pieces, within 3 standard errors of what is exact."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        each = 1.0 + 2.0 * torch.randn(8, 5, 3, generator=draws, dtype=torch.float64)  # 8 pieces of 5 examples, 3 weights
        pieces = each.mean(1)
        found.append(gradient_noise([float(g.square().sum()) for g in pieces], float(pieces.mean(0).square().sum()), 5))
    for values, exact in zip(torch.tensor(found).T, (3 * 4.0, 3 * 1.0), strict=True):
        assert abs(float(values.mean()) - exact) < 3 * float(values.std()) / len(found) ** 0.5
    assert all(map(math.isnan, gradient_noise([1.0], 1.0, 5)))

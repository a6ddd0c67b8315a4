"""The gradient noise scale by brute force: exact per-example gradients, and the gradients of pieces that are computed one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale
from noisescale.execution.loader import PlannedLoader
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.denominators import NextToken, Sequences, padded
from tests.helpers.regression import N, Plain, Regression

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A network at fixed weights, and all of its examples."""

    net: nn.Module
    loss: Loss
    x: Tensor
    y: Tensor

    def exact(self) -> tuple[float, float]:
        """|G_N|^2 and tr(Sigma) (with N - 1) from the gradient of each example, by torch.func."""
        parameters = {name: parameter.detach() for name, parameter in self.net.named_parameters()}

        def of_one(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return self.loss(functional_call(self.net, values, (x[None],)), y[None])

        each = vmap(grad(of_one), in_dims=(None, 0, 0))(parameters, self.x, self.y)
        rows = torch.cat([gradient.flatten(1) for gradient in each.values()], dim=1)
        mean = rows.mean(0)
        return float(mean.square().sum()), float((rows - mean).square().sum() / (len(rows) - 1))

    def module(self) -> Frozen:
        return Frozen(self.net, self.loss)

    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=len(self.x), shuffle=True)


class Frozen(pl.LightningModule):
    """Trains with a learning rate of 0, so that all gradients are taken at the same weights."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def problems() -> dict[str, Problem]:
    """A linear regression, a network with a bend, and a convolutional classifier; 103 examples each."""
    data, generator = Regression(), torch.Generator().manual_seed(5)
    images = torch.randn(N, 1, 6, 6, generator=generator, dtype=torch.float64)
    labels = (images.mean((1, 2, 3)) > 0).long() + (images[:, 0, 0, 0] > 0.5).long()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        linear, bent = nn.Linear(5, 2), nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
        convolutional = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return {
        "linear": Problem(linear.double(), F.mse_loss, data.x, data.y),
        "tanh": Problem(bent.double(), F.mse_loss, data.x, data.y),
        "convolutional": Problem(convolutional.double(), F.cross_entropy, images, labels),
    }


class Twin(pl.Callback):
    """Computes tr(Sigma) and |G|^2 of each update from the gradients of its planned pieces, one by one on a copy of the network."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, PlannedLoader)
        assert loader.current is not None
        plan, update = loader.plan, loader.current.update
        pieces = [piece for rank in range(plan.world_size) for piece in plan.pieces(update, rank) if piece[1]]
        gradients, weights = [], []
        for position, size in pieces:
            weight, gradient = self._gradient(pl_module, loader.indices(position, size).tolist())
            if weight:
                weights.append(weight)
                gradients.append(gradient)
        total, p = sum(weights), len(weights)
        mean = sum((w * gradient for w, gradient in zip(weights, gradients, strict=True)), start=torch.zeros_like(gradients[0])) / total
        squares = sum(w / total * float(gradient.square().sum()) for w, gradient in zip(weights, gradients, strict=True))
        squared = float(mean.square().sum())
        trace = (squares - squared) * total / (p - 1) if p > 1 else float("nan")
        self.found.append((squared - trace / total, trace))

    @staticmethod
    def _gradient(module: pl.LightningModule, indices: list[int]) -> tuple[float, Tensor]:
        """(weight, gradient of the mean loss) of some examples."""
        twin = copy.deepcopy(module.net)
        assert isinstance(twin, nn.Module)
        twin.zero_grad()
        if isinstance(module, NextToken):
            tokens, targets = padded([Sequences()[index] for index in indices])
            weight = float((targets != -100).sum())
            loss = module.loss(twin(tokens).flatten(0, 1), targets.flatten())
        else:
            assert isinstance(module, Plain)
            data = Regression(next(twin.parameters()).dtype)
            weight, loss = float(len(indices)), F.mse_loss(twin(data.x[indices]), data.y[indices])
        loss.backward()
        return weight, torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])


class Sparse(NextToken):
    """The same, with an embedding whose gradient has only the rows of the tokens that are there."""

    def __init__(self, sparse: bool) -> None:
        super().__init__("token mean", torch.float64)
        embedding = self.net[0]
        assert isinstance(embedding, nn.Embedding)
        embedding.sparse = sparse

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def rows_of(path: Path) -> list[dict[str, float]]:
    """The rows of gradient_noise.csv."""
    return [{name: float(value) for name, value in row.items()} for row in read_rows(path)]


def averages(callback: GradientNoiseScale) -> tuple[float, float, float]:
    """What decides whatever comes after it: the sum of the weights, |G|^2 and tr(Sigma)."""
    return callback.average.average.weights, callback.average.square, callback.average.trace


GROWING = batching.Linear(size=2, max_size=31, epochs=3, last="partial")


def planned(strategy: batching.BatchStrategy = GROWING, **options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(strategy, schedules.Cosine(), seed=5, check_cuts=False, **options)

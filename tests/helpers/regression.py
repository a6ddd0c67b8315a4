"""A small regression to compare trainings on: data, network and module, none of which depends on noisescale."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from noisescale.plans import strategies as batching

N = 103
"""Number of examples: a prime, so that no batch size divides it."""


class Regression(Dataset[tuple[Tensor, Tensor, int]]):
    """103 fixed points (x, y, index)."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(N, 5, generator=generator, dtype=torch.float64).to(dtype)
        self.y = (self.x.double() @ torch.randn(5, 2, generator=generator, dtype=torch.float64)).sin().to(dtype)

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.x[index], self.y[index], index


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    """A small network, with the same initial weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers: list[nn.Module] = [nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(16))
        return nn.Sequential(*layers).to(dtype)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


class Plain(pl.LightningModule):
    """Trains with the mean squared error, and records the examples of each micro-batch."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer] = sgd) -> None:
        super().__init__()
        self.net, self.make_optimizer = net, optimizer
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, index = batch
        self.seen.append(index.tolist())
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.net.parameters())


class Validated(Plain):
    """The same, validated on all the examples that it is trained on."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Regression(), batch_size=N)


def big_batch_gradient(net: nn.Module, data: Regression, indices: Tensor) -> Tensor:
    """The gradient of the mean loss over `indices` as one batch, at the weights of `net`; one flat vector."""
    twin = copy.deepcopy(net)
    twin.zero_grad()
    F.mse_loss(twin(data.x[indices]), data.y[indices]).backward()
    return torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])


def loader(dataset: Dataset[Any] | None = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset or Regression(), **options)


STRATEGIES = {
    "small": batching.Fixed(size=8),
    "odd micro-batches": batching.Fixed(size=29),
    "full": batching.Full(),
    "growing": batching.MultiStep(size=5, milestones=[0.5, 1.7], factor=3),
    "ramp": batching.Linear(size=3, max_size=40, epochs=2),
    "ramp down": batching.Linear(size=50, max_size=2, epochs=2),
    "scaled": batching.Fixed(size=32, lr_rule="sqrt", reference_size=8),
}

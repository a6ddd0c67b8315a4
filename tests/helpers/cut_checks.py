"""A scheduler whose updates are cut, modules whose loss depends on the cut or cannot be checked: for the check before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisescale.callbacks import BatchSizeScheduler
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain, network


def cutting(**options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(batching.Fixed(size=30), **{"max_micro_batch_size": 12, "seed": 3, **options})


class DrawsItself(Plain):
    """Its loss is random, whatever the layers are."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(F.dropout(batch[0], 0.5)), batch[1])


class Loss(Plain):
    """The regression, with a loss of its own: (module, x, y) -> loss."""

    def __init__(self, loss: Callable[[Any, Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__(network(**options))
        self.loss = loss

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self, batch[0], batch[1])


def weighted(module: Any, x: Tensor, y: Tensor) -> Tensor:
    """A weighted mean: weights from 1 to 3, by the sign of the first input."""
    w = 2.0 + torch.sign(x[:, :1])
    errors: Tensor = (module.net(x) - y) ** 2
    return (w * errors).sum() / (2 * w.sum())


def summed(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(module.net(x), y, reduction="sum")


def contrastive(module: Any, x: Tensor, y: Tensor) -> Tensor:
    """Each example against all others of its batch."""
    return F.cross_entropy(module.net(x) @ y.T, torch.arange(len(x)))


def with_norm(norm: nn.Module) -> nn.Sequential:
    net = network(norm=True)
    net[1] = norm.to(torch.float64)
    return net


def untracked(affine: bool = True) -> nn.Module:
    return nn.BatchNorm1d(16, affine=affine, track_running_stats=False)


class AlwaysOfTheBatch(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


def under_autocast(loss: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """The same in bfloat16, whose rounding is 0.4 %."""

    def rounded(module: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(module, x, y)

    return rounded


def weighted_with(norm: nn.Module) -> Loss:
    module = Loss(weighted)
    module.net = with_norm(norm)
    return module


class FewTargets(Plain):
    """A mean over targets that every `every`-th example has: in many cuts none has one, and the mean is 0/0."""

    def __init__(self, every: int, norm: bool = False) -> None:
        super().__init__(network(norm=norm))
        self.every = every

    def weigh(self, batch: Any) -> Tensor:
        index: Tensor = batch[2]
        return (index % self.every == 0).double()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        w = self.weigh(batch)
        errors: Tensor = (self.net(batch[0]) - batch[1]).square().sum(1)
        return (errors * w).sum() / w.sum()

"""The task whose targets are numbers: the mean squared error, or another loss of the difference, and the rmse."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric

from noisescale.errors import ConfigError
from noisescale.models.tasks import Loss, Task, shapes

__all__ = ["Regressor"]


class Regressor(Task):
    """Mean squared error, or another loss of the difference to the targets; the metric is the root mean squared error.

    With k outputs, all means are over the n k numbers. The rmse is in the unit of the targets as the data give them: for standardised
    targets, 1 is the error of a network that always says the mean.

    Args:
        net: inputs (n, ...) -> outputs (n, k).
        optimizer: module -> optimizer.
        loss: `mse`, (o - y)^2; `l1`, |o - y|; `huber`, (o - y)^2 / 2 up to |o - y| = 1, then |o - y| - 1/2 (Huber 1964); or a function
            (outputs, targets) -> mean over the batch.

    Targets: numbers (n, k), or (n,) if k = 1.
    Raises: ConfigError.
    """

    METRIC = "rmse"
    metric_names = ("train/loss", "train/rmse", "val/loss", "val/rmse")
    TARGETS = "numbers"
    LOSSES: ClassVar[Mapping[str, Loss]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}

    def __init__(self, net: nn.Module, optimizer: Callable[[nn.Module], torch.optim.Optimizer], *, loss: str | Loss = "mse") -> None:
        super().__init__(net, optimizer, loss)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Whether there is an output for each number of the targets, example by example."""
        if len(outputs) != len(targets) or outputs.numel() != targets.numel():
            problem = f"needs one output for each number of the targets; {shapes(outputs, targets)}"
            raise ConfigError("task", "regression", problem)

    def aligned(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The targets in the shape of the outputs, because (n, 1) - (n,) would be (n, n), and at least in single precision."""
        return targets.reshape(outputs.shape).to(torch.promote_types(outputs.dtype, torch.float32))

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The squared error, as a mean over the outputs of an example."""
        return (outputs - targets).square().flatten(1).mean(1)

    def final(self, mean: float) -> float:
        """The square root."""
        return math.sqrt(mean)

    def make_metric(self) -> Metric:
        return _RootMean(nan_strategy="disable")


class _RootMean(MeanMetric):
    """The square root of the mean."""

    def compute(self) -> Tensor:
        return super().compute().sqrt()

"""The task whose targets are classes: cross-entropy and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisescale.errors import ConfigError
from noisescale.models.tasks import Loss, Task, shapes
from noisescale.plans.checks import check_label_smoothing

__all__ = ["Classifier"]


class Classifier(Task):
    """Mean cross-entropy, in training with the targets (1 - a) one-hot + a/C, where a = label_smoothing; the metric is the accuracy.

    Accuracies (acc) are fractions of all examples (micro average), in [0, 1]. Only train/loss uses the smoothed targets.

    Args:
        net: inputs (n, ...) -> logits (n, C), for C >= 2 classes.
        optimizer: module -> optimizer.
        loss: `cross_entropy`, or a function (logits, labels) -> mean over the batch.
        label_smoothing: a, in [0, 1); it belongs to the cross-entropy.

    Targets: whole numbers (n,), in [0, C).
    Raises: ConfigError, also for label smoothing with another loss.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    METRIC = "acc"
    metric_names = ("train/loss", "train/acc", "val/loss", "val/acc")
    TARGETS = "classes"
    LOSSES: ClassVar[Mapping[str, Loss]] = {"cross_entropy": F.cross_entropy}

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        loss: str | Loss = "cross_entropy",
        label_smoothing: float = 0.0,
    ) -> None:
        check_label_smoothing(label_smoothing)
        super().__init__(net, optimizer, loss)
        if label_smoothing and self.loss is not F.cross_entropy:
            raise ConfigError("label_smoothing", label_smoothing, f"has no effect on loss={self.loss_name}", "set it to 0")
        self.label_smoothing = label_smoothing

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Whether outputs are (n, C) and targets whole numbers (n,) in [0, C)."""
        if targets.is_floating_point() or targets.is_complex():
            raise ConfigError("task", "classification", f"needs whole numbers as targets, not {targets.dtype}", "use task=regression")
        if outputs.dim() != 2 or targets.shape != outputs.shape[:1] or outputs.shape[1] < 2:
            problem = f"needs outputs (n, classes), with two classes or more, and targets (n,); {shapes(outputs, targets)}"
            raise ConfigError("task", "classification", problem)
        if not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            found = f"{int(targets.min())} to {int(targets.max())}"
            problem = f"the network has {outputs.shape[1]} outputs, for the classes 0 to {outputs.shape[1] - 1}; the targets are {found}"
            raise ConfigError("task", "classification", problem)

    def aligned(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets if targets.dtype == torch.int64 else targets.long()

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.label_smoothing:
            return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)
        return self.loss(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the class is right."""
        return outputs.argmax(1) == targets

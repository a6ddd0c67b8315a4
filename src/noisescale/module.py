"""The LightningModule: a network, a loss, an optimizer. It knows neither schedule nor batch size; callbacks carry out the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

__all__ = ["Classifier"]


class Classifier(pl.LightningModule):
    """Classification by mean cross-entropy.

    Metrics, once per epoch: train/loss and train/acc (running means over the epoch, while the weights change), val/loss, val/acc,
    test/loss, test/acc; accuracies are shares of the examples (micro average), in [0, 1].

    Args:
        net: images (n, c, h, w) -> logits (n, num_classes).
        optimizer: module -> optimizer.
        num_classes: C.
    """

    def __init__(self, net: nn.Module, optimizer: Callable[[nn.Module], torch.optim.Optimizer], num_classes: int) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer
        stages = ("val", "test")
        accuracy = {stage: MulticlassAccuracy(num_classes, average="micro", validate_args=False) for stage in stages}
        self.accuracy = nn.ModuleDict(accuracy)
        self.mean_loss = nn.ModuleDict({stage: MeanMetric(nan_strategy="disable") for stage in stages})
        # Running sums by hand: a metric object per micro-batch costs more than a small network's update.
        self._sums: Tensor | None = None
        self._count = 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.net)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            sums = torch.stack((loss.detach().double() * len(labels), correct.double()))
            self._sums = sums if self._sums is None else self._sums + sums
        self._count += len(labels)
        return loss

    def on_train_epoch_end(self) -> None:
        if self._sums is None:
            return
        totals = torch.cat((self._sums, self._sums.new_tensor([self._count])))
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        loss, correct, count = totals.tolist()
        several = self.trainer.world_size > 1  # the means are equal on all devices already
        self.log("train/acc", correct / count, prog_bar=True, sync_dist=several)
        # Not to the logger, whose train/loss is that of each update.
        self.log("train/loss", loss / count, logger=False, prog_bar=True, sync_dist=several)
        self._sums, self._count = None, 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self(images)
        accuracy, mean_loss = self.accuracy[stage], self.mean_loss[stage]
        assert isinstance(accuracy, Metric)
        assert isinstance(mean_loss, Metric)
        accuracy.update(logits, labels)
        mean_loss.update(F.cross_entropy(logits, labels, reduction="none"))
        metrics: dict[str, Any] = {f"{stage}/loss": mean_loss, f"{stage}/acc": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=stage == "val", batch_size=len(labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"] = None if self._sums is None else (self._sums.tolist(), self._count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (sums := checkpoint.get("epoch_sums")) is not None:
            self._sums, self._count = torch.tensor(sums[0], dtype=torch.float64, device=self.device), sums[1]

"""The LightningModule of image classification: network, loss, metrics, optimizer. Schedule and batch size are left to the callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from noisescale.execution.lean import LeanModule
from noisescale.execution.partial_gradient import load_gradient
from noisescale.plans.checks import check_label_smoothing

__all__ = ["Classifier"]

SUMMED_TOGETHER = 256
"""Micro-batches whose losses are summed in one operation."""


class Classifier(LeanModule):
    """Mean cross-entropy, in training with the targets (1 - a) one-hot + a/C, where a = label_smoothing.

    Metrics, once per epoch: train/loss and train/acc (means over the epoch, while the weights change), val/loss, val/acc, test/loss,
    test/acc. Accuracies are fractions of all examples (micro average), in [0, 1]. Only train/loss uses the smoothed targets.

    Args:
        net: images (n, c, h, w) -> logits (n, num_classes).
        optimizer: module -> optimizer.
        num_classes: C, the number of classes.
        label_smoothing: a, in [0, 1).

    Raises:
        ConfigError: label_smoothing is out of its range.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    metric_names = ("train/loss", "train/acc", "val/loss", "val/acc")
    """What a callback with a `monitor` can go by; any LightningModule may say so."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_label_smoothing(label_smoothing)
        self.net = net
        self.label_smoothing = label_smoothing
        self.make_optimizer = optimizer
        stages = ("val", "test")
        accuracy = {stage: MulticlassAccuracy(num_classes, average="micro", validate_args=False) for stage in stages}
        self.accuracy = nn.ModuleDict(accuracy)
        self.mean_loss = nn.ModuleDict({stage: MeanMetric(nan_strategy="disable") for stage in stages})
        # Plain sums, because updating a metric object for every micro-batch costs more than an update of a small network.
        self._sums: Tensor | None = None  # of loss x examples, and of correct predictions
        self._count = 0
        self._recent: list[tuple[Tensor, Tensor, int]] = []  # (loss, correct predictions, examples) that are not in the sums yet
        self._finished = 0  # how many of these are of finished updates
        self._update = -1  # the update of the others

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.net)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        correct = (logits.detach().argmax(1) == labels).sum()
        if self._update != self.global_step:
            self._update, self._finished = self.global_step, len(self._recent)
            if self._finished >= SUMMED_TOGETHER:
                self._sum_up()
        # A copy, because BatchSizeScheduler multiplies the loss in place before the backward pass.
        self._recent.append((loss.detach().clone(), correct, len(labels)))
        return loss

    def _sum_up(self, count: int | None = None) -> None:
        """Move the first `count` of the recent micro-batches into the sums; None: all of them."""
        recent, self._recent = self._recent[:count], [] if count is None else self._recent[count:]
        self._finished = 0
        if not recent:
            return
        losses, correct, counts = zip(*recent, strict=True)
        examples = torch.tensor(counts, dtype=torch.float64, device=losses[0].device)
        sums = torch.stack((torch.stack(losses).double() @ examples, torch.stack(correct).sum().double()))
        # `to`, because sums from a checkpoint are restored before the module is on its device.
        self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums
        self._count += sum(counts)

    def _totals(self) -> list[float]:
        """The sums over the epoch so far, over all devices: loss x examples, correct predictions, examples.

        After an exception they are those of this device, because the others may be gone.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=self.device) if self._sums is None else self._sums.to(self.device)
        totals = torch.cat((sums, sums.new_tensor([self._count])))
        if torch.distributed.is_available() and torch.distributed.is_initialized() and not self.trainer.interrupted:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        return [float(total) for total in totals.tolist()]

    def on_train_epoch_start(self) -> None:
        # Not at the end of an epoch: a run that stops inside an epoch saves its last checkpoint after Lightning has called that hook.
        self._sums, self._count, self._recent, self._finished = None, 0, [], 0

    def on_train_epoch_end(self) -> None:
        self._sum_up()
        loss, correct, count = self._totals()
        if not count:
            return
        several = self.trainer.world_size > 1  # sync_dist changes nothing: the means are already equal on all devices
        self.log("train/acc", correct / count, prog_bar=True, sync_dist=several)
        # Not sent to the logger, which uses train/loss for the loss of each update.
        self.log("train/loss", loss / count, logger=False, prog_bar=True, sync_dist=several)

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
        if self._update != self.global_step:
            self._finished = len(self._recent)
        # Without its gradient in the checkpoint, an update that is not finished is repeated from its first micro-batch.
        self._sum_up(self._finished if load_gradient(checkpoint) is None else None)
        checkpoint["epoch_sums"] = self._totals()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Only on rank 0: the sums are those of all devices, and would be counted more than once.
        if (sums := checkpoint.get("epoch_sums")) is not None and self.global_rank == 0:
            self._sums, self._count = torch.tensor(sums[:2], dtype=torch.float64, device=self.device), int(sums[2])

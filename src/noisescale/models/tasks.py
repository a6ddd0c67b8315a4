"""The LightningModule of the template: network, loss, metrics, optimizer. Schedule and batch size are left to the callbacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from noisescale.errors import ConfigError
from noisescale.execution.lean import LeanModule
from noisescale.execution.partial_gradient import load_gradient

__all__ = ["Loss", "Task", "shapes"]

SUMMED_TOGETHER = 256
"""Micro-batches whose losses are summed in one operation."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the mean over the examples of the batch."""


class Task(LeanModule, ABC):
    """A network that is trained by a mean loss over examples, with one metric; what `Classifier` and `Regressor` have in common.

    A batch is (inputs, targets). Metrics, once per epoch: train/loss and train/<METRIC> (means over the epoch, while the weights change),
    val/loss, val/<METRIC>, test/loss, test/<METRIC>. The metric is `final` of the mean of `scores` over all examples.

    Args:
        net: inputs (n, ...) -> outputs (n, ...).
        optimizer: module -> optimizer.
        loss: the name of a loss of the class, or a function (outputs, targets) -> mean over the batch, such as an `nn.Module`, whose
            parameters are then trained, too.

    Raises:
        ConfigError: `loss` is neither; in the first step, if the batch, the outputs, the targets or the loss do not have the form that
            the task needs.
    """

    METRIC: ClassVar[str]
    """Name of the metric, behind the name of the stage."""

    metric_names: ClassVar[tuple[str, ...]]
    """What is logged in training and validation, and so what a callback with a `monitor` can go by; any LightningModule may say so."""

    TARGETS: ClassVar[str]
    """classes or numbers: what the targets of the data must be. A DataModule that has `targets` says there what it has."""

    LOSSES: ClassVar[Mapping[str, Loss]]
    """Losses that have a name."""

    def __init__(self, net: nn.Module, optimizer: Callable[[nn.Module], torch.optim.Optimizer], loss: str | Loss) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer
        self.loss: Loss = _loss_of(loss, self.LOSSES)
        self.loss_name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
        stages = ("val", "test")
        self.metric = nn.ModuleDict({stage: self.make_metric() for stage in stages})
        self.mean_loss = nn.ModuleDict({stage: MeanMetric(nan_strategy="disable") for stage in stages})
        # Plain sums, because updating a metric object for every micro-batch costs more than an update of a small network.
        self._sums: Tensor | None = None  # of loss x examples, and of scores
        self._count = 0
        self._recent: list[tuple[Tensor, Tensor, int]] = []  # (loss, sum of scores, examples) that are not in the sums yet
        self._finished = 0  # how many of these are of finished updates
        self._update = -1  # the update of the others
        self._checked = False

    # -- what a task decides --------------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise `ConfigError` unless outputs and targets fit the task; called once, for the first batch."""

    def aligned(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The targets in the form that the loss needs."""
        return targets

    def training_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss that is minimised; validation and test use `loss`."""
        return self.loss(outputs, targets)

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A number for each example, shape (n,)."""

    def final(self, mean: float) -> float:
        """The metric of a mean score."""
        return mean

    def make_metric(self) -> Metric:
        """An object that collects scores and computes `final` of their mean."""
        return MeanMetric(nan_strategy="disable")

    # -- training and evaluation ----------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        return outputs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        outputs, targets = self._outputs_and_targets(batch)
        loss = self.training_loss(outputs, targets) if self._checked else self._first_loss(outputs, targets)
        self._check_loss(loss)
        scores = self.scores(outputs.detach(), targets).sum()
        if self._update != self.global_step:
            self._update, self._finished = self.global_step, len(self._recent)
            if self._finished >= SUMMED_TOGETHER:
                self._sum_up()
        # A copy, because BatchSizeScheduler multiplies the loss in place before the backward pass.
        self._recent.append((loss.detach().clone(), scores, len(targets)))
        return loss

    def _outputs_and_targets(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not self._checked:
            _check_batch(batch)
        inputs, targets = batch
        outputs = self(inputs)
        if not self._checked:
            if not isinstance(outputs, Tensor):
                raise ConfigError("model", type(outputs).__name__, "a task needs a network whose output is one tensor")
            self.check(outputs, targets)
        return outputs, self.aligned(outputs, targets)

    def _first_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the first batch, which shows whether the function fits."""
        try:
            return self.training_loss(outputs, targets)
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            problem = f"fails on the first batch: {type(error).__name__}: {error}"
            raise ConfigError(
                "task.loss", self.loss_name, problem, "it must be a function (outputs, targets) -> mean over the batch"
            ) from error

    def _check_loss(self, loss: Any) -> None:
        if self._checked:
            return
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ConfigError("task.loss", self.loss_name, f"must give one number, the mean over the examples of the batch, not {found}")
        self._checked = True

    def _sum_up(self, count: int | None = None) -> None:
        """Move the first `count` of the recent micro-batches into the sums; None: all of them."""
        recent, self._recent = self._recent[:count], [] if count is None else self._recent[count:]
        self._finished = 0
        if not recent:
            return
        losses, scores, counts = zip(*recent, strict=True)
        examples = torch.tensor(counts, dtype=torch.float64, device=losses[0].device)
        sums = torch.stack((torch.stack(losses).double() @ examples, torch.stack(scores).sum().double()))
        # `to`, because sums from a checkpoint are restored before the module is on its device.
        self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums
        self._count += sum(counts)

    def _totals(self) -> list[float]:
        """The sums over the epoch so far, over all devices: loss x examples, scores, examples.

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
        loss, scores, count = self._totals()
        if not count:
            return
        several = self.trainer.world_size > 1  # sync_dist changes nothing: the means are already equal on all devices
        self.log(f"train/{self.METRIC}", self.final(scores / count), prog_bar=True, sync_dist=several)
        # Not sent to the logger, which uses train/loss for the loss of each update.
        self.log("train/loss", loss / count, logger=False, prog_bar=True, sync_dist=several)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        outputs, targets = self._outputs_and_targets(batch)
        metric, mean_loss = self.metric[stage], self.mean_loss[stage]
        assert isinstance(metric, Metric)
        assert isinstance(mean_loss, Metric)
        loss = self.loss(outputs, targets)
        self._check_loss(loss)
        metric.update(self.scores(outputs, targets))
        mean_loss.update(loss.expand(len(targets)))  # not `weight=len(targets)`, which nan_strategy="disable" ignores
        metrics: dict[str, Any] = {f"{stage}/loss": mean_loss, f"{stage}/{self.METRIC}": metric}
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=stage == "val", batch_size=len(targets))

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


def _loss_of(loss: Any, known: Mapping[str, Loss]) -> Loss:
    if isinstance(loss, str) and loss in known:
        return known[loss]
    if callable(loss):
        found: Loss = loss
        return found
    names = ", ".join(known)
    raise ConfigError(
        "loss", loss, f"must be one of {names}, or the dotted name of a function (outputs, targets) -> mean", "my_module.my_loss"
    )


def _check_batch(batch: Any) -> None:
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        return
    parts = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) and len(batch) <= 4 else ""
    remedy = "for other batches set module._target_ to a LightningModule of your own"
    raise ConfigError("data", f"{type(batch).__name__}{parts}", "a task needs batches of two tensors, (inputs, targets)", remedy)


def shapes(outputs: Tensor, targets: Tensor) -> str:
    """Both shapes, for a message."""
    return f"the network gives outputs of shape {tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}"

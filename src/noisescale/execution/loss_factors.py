"""What the loss of each micro-batch is multiplied by, so that the gradient of an update is that of one big batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.hooks import RemovableHandle

from noisescale.execution.micro_batch import MicroBatch
from noisescale.execution.weighting import MicroBatchWeights, without_gradient
from noisescale.plans.plan import Update

__all__ = ["LossFactors"]


class LossFactors:
    """n k W / B for a micro-batch of n examples, one of k on each of W devices; with weights the factor of `MicroBatchWeights`.

    Lightning divides the loss by k, and the mean over devices by W, so that the weight of the micro-batch in the gradient is n/B.

    Args:
        weight: batch -> the denominator of its loss; None: its number of examples.

    Attributes:
        weights: None without `weight`.
        current: the factor of the current micro-batch, before Lightning divides the loss by k.
    """

    def __init__(self, weight: Callable[[Any], Any] | None) -> None:
        self.weights = None if weight is None else MicroBatchWeights(weight)
        self.current = 1.0
        self._silenced: list[RemovableHandle] = []

    @property
    def weight(self) -> Callable[[Any], float] | None:
        """Batch -> the denominator of its loss, checked; None: its number of examples."""
        return None if self.weights is None else self.weights.of

    def take(self, batch: Any, micro: MicroBatch, trainer: pl.Trainer) -> float | None:
        """The weight of a micro-batch that starts; None without `weight`."""
        if self.weights is None:
            return None
        if micro.index == 0:
            self.weights.start_update()
        return self.weights.take(batch, micro.size, micro.update.effective_batch_size, trainer)

    def scale(self, loss: torch.Tensor, weight: float | None, micro: MicroBatch, trainer: pl.Trainer) -> None:
        """Multiply the loss in place; where the factor is 0, the backward pass adds zeros, even if the loss is nan."""
        update = micro.update
        if weight is not None:
            assert self.weights is not None
            self.current = self.weights.factor(weight, update.accumulate_grad_batches)
        else:
            self.current = micro.size * (update.accumulate_grad_batches * trainer.world_size) / update.effective_batch_size
        if self.current == 0.0:
            self._silenced = without_gradient(_parameters(trainer))
        elif self.current != 1.0:
            loss.mul_(self.current)

    def listen_again(self) -> None:
        """The micro-batch is over: let the next backward pass count."""
        for handle in self._silenced:
            handle.remove()
        self._silenced = []

    def finish_update(self, update: Update, trainer: pl.Trainer) -> None:
        """Divide the gradient of an update by the sum of its weights, if there are weights."""
        if self.weights is not None:
            self.weights.finish_update(_parameters(trainer), update, trainer)


def _parameters(trainer: pl.Trainer) -> list[torch.nn.Parameter]:
    """What the optimizer trains, which need not be in the module."""
    return [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]

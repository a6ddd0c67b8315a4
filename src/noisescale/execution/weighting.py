"""Weight the micro-batches of an update by something other than their numbers of examples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from noisescale.errors import ConfigError

__all__ = ["MicroBatchWeights", "without_gradient"]


class MicroBatchWeights:
    """The gradient of an update as sum(w_j grad_j) / sum(w_j), over its micro-batches j on all devices, where w_j = weight(batch_j).

    It equals the gradient of one big batch if the loss of a batch is a sum over its terms divided by w, the denominator: the number of
    tokens that are not padding, the sum of the class weights of the labels, the number of valid pixels.

    sum(w_j) is known only at the end of the update. Until then each w_j is divided by a power of two, the reference, which the devices
    share and which makes the sum about 1, so that float16 does not overflow; at the end the gradient is divided, once. A power of two
    changes no digit of the result. The reference follows the weight per example of the update before; in the first update of a run the
    devices add up the weights of their first micro-batches.

    A micro-batch of weight 0 adds nothing, even if its loss is nan: see `without_gradient`. If all weights of an update are 0, its
    gradient is 0, and the first such update is announced by a warning.

    Args:
        weight: batch, as `training_step` gets it -> w, a finite number >= 0, or a tensor that holds one.

    Raises:
        ConfigError: it is not a function; from `of` and `take`, if it does not return such a number.

    Not to be confused with the weights of examples in a sampler, which decide what is drawn.
    """

    def __init__(self, weight: Callable[[Any], Any]) -> None:
        if not callable(weight):
            raise ConfigError("weight", weight, "must be a function batch -> number", "for example lambda batch: len(batch[0])")
        self._weight = weight
        self._reference: float | None = None
        self._per_example: float | None = None  # sum(w_j) / B of the last update that had any weight
        self._total = 0.0  # sum of the w_j of this device in the current update
        self._said = False

    def of(self, batch: Any) -> float:
        """w of a batch.

        Raises:
            ConfigError: it is not a finite number >= 0.
        """
        remedy = "return the denominator of the loss of a batch"
        try:
            value = self._weight(batch)
        except Exception as error:
            name = getattr(self._weight, "__name__", type(self._weight).__name__)
            raise ConfigError("weight", name, f"fails on a batch: {type(error).__name__}: {error}", remedy) from error
        try:
            w = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError("weight", type(value).__name__, "must return a number", remedy) from error
        if not (math.isfinite(w) and w >= 0.0):
            raise ConfigError("weight", w, "must return a finite number >= 0", remedy)
        return w

    def start_update(self) -> None:
        """Begin a new update."""
        self._reference, self._total = None, 0.0

    def take(self, batch: Any, size: int, effective_batch_size: int, trainer: pl.Trainer) -> float:
        """w of a micro-batch of `size` examples, added to the sum of the update; 0 for an empty one."""
        w = self.of(batch) if size else 0.0
        if self._reference is None:
            self._reference = self._new_reference(w, size, effective_batch_size, trainer)
        self._total += w
        return w

    def factor(self, w: float, accumulate_grad_batches: int) -> float:
        """What the loss of a micro-batch is multiplied by, before Lightning divides it by the number of micro-batches."""
        assert self._reference is not None
        return w * accumulate_grad_batches / self._reference

    def finish_update(self, parameters: list[nn.Parameter], update: Any, trainer: pl.Trainer) -> None:
        """Divide the gradient, which is the mean over devices of sum(w_j grad_j) / reference, by the mean over devices of the weights."""
        assert self._reference is not None
        total = _sum_over_devices(self._total, trainer)
        if total == 0.0:
            if not self._said:
                self._said = True
                warnings.warn(
                    f"update {update.start.step}: the weights of all its micro-batches are 0, so its gradient is 0; later updates like it "
                    "are not announced",
                    stacklevel=1,
                )
            return
        self._per_example = total / update.effective_batch_size
        divisor = total / trainer.world_size / self._reference
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(divisor)

    def state(self) -> dict[str, float | None]:
        """The sum and the reference of an unfinished update, in plain numbers."""
        return {"reference": self._reference, "per_example": self._per_example, "total": self._total}

    def restore(self, state: dict[str, float | None]) -> None:
        """Continue from where `state` was taken."""
        self._reference, self._per_example = state["reference"], state["per_example"]
        self._total = state["total"] or 0.0

    def _new_reference(self, w: float, size: int, effective_batch_size: int, trainer: pl.Trainer) -> float:
        per_example = self._per_example
        if per_example is None:
            weights, examples = _sum_over_devices(w, trainer), _sum_over_devices(float(size), trainer)
            per_example = weights / examples if examples else 0.0
        expected = per_example * effective_batch_size / trainer.world_size
        return 2.0 ** round(math.log2(expected)) if expected > 0.0 else 1.0


def without_gradient(parameters: Iterable[nn.Parameter]) -> list[RemovableHandle]:
    """Make backward passes add zeros to the gradients of `parameters`, until each of the handles is removed.

    Multiplying a loss by 0 is not enough: the derivative of 0/0 is nan, and stays nan if it is multiplied by 0. The backward pass itself
    has to run, because other devices wait for it.
    """
    return [parameter.register_hook(torch.zeros_like) for parameter in parameters if parameter.requires_grad]


def _sum_over_devices(value: float, trainer: pl.Trainer) -> float:
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(tensor, reduce_op="sum"))

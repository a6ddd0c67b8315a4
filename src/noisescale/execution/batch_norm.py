"""What batch norm needs beside exact gradients: examples to normalise together, and running statistics of all devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from noisescale.execution.micro_batch import MicroBatch
from noisescale.plans.plan import Plan

__all__ = ["RunningStatistics", "ghost_batch_size", "min_micro_batch_size", "pieces_share_statistics"]

_KEY = "running_statistics"


def min_micro_batch_size(module: nn.Module, world_size: int) -> int:
    """The fewest examples of a forward pass in training: 2 if `module` has a batch norm that uses the statistics of its batch, otherwise 1.

    A single example has no variance: torch refuses it where its map is a single pixel, and elsewhere it is normalised by itself.
    Not counted are a batch norm in `eval` mode, which uses its running statistics, and `SyncBatchNorm` on several devices, which normalises
    over all of them. Instance norm normalises each example by itself, whatever the batch.
    """
    for layer in module.modules():
        if not isinstance(layer, _BatchNorm) or (isinstance(layer, nn.SyncBatchNorm) and world_size > 1):
            continue
        if layer.training or layer.running_mean is None:
            return 2
    return 1


def ghost_batch_size(module: nn.Module) -> int:
    """The least common multiple of the `ghost_batch_size` of the batch norms of `module` in training; 1 if none has one."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    sizes = [size for layer in layers if isinstance(size := getattr(layer, "ghost_batch_size", None), int)]
    return math.lcm(*sizes)


def pieces_share_statistics(module: nn.Module) -> bool:
    """Whether a batch norm of `module` in training normalises whole micro-batches, and not ghost batches of a fixed size."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None)]
    return any(getattr(layer, "ghost_batch_size", None) is None for layer in layers)


class RunningStatistics:
    """The running means and variances of the batch and instance norms of a module, which validation uses.

    On W devices, each with n_r of the B examples of an update, they become sum_r (n_r / B) m_r at its end, on all devices; otherwise each
    device would know its own share of the examples only, and DDP and the checkpoint would keep that of the first one. A placeholder, which
    runs where a device has no examples, leaves them as they are. An update that is repeated after a restart starts with what they were
    before it.

    Frozen layers (in `eval` mode) keep theirs, and `SyncBatchNorm` has the same on all devices already.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = [layer for layer in module.modules() if isinstance(layer, _NormBase)]
        names = {id(buffer): name for name, buffer in module.named_buffers()}
        buffers = [buffer for layer in self._layers for buffer in layer.buffers(recurse=False) if not is_lazy(buffer)]
        self._buffers = {names[id(buffer)]: buffer for buffer in buffers}
        self._before_update = self._copy()
        self._before_placeholder: list[Tensor] | None = None

    def before(self, micro: MicroBatch) -> None:
        """Call it before each micro-batch."""
        if not self._buffers:
            return
        if micro.index == 0:
            torch._foreach_copy_(self._before_update, list(self._buffers.values()))
        self._before_placeholder = None if micro.size else self._copy()

    def after(self, micro: MicroBatch, plan: Plan, trainer: pl.Trainer) -> None:
        """Call it after each micro-batch, on all devices."""
        if not self._buffers:
            return
        if self._before_placeholder is not None:
            torch._foreach_copy_(list(self._buffers.values()), self._before_placeholder)
        if micro.is_last and plan.world_size > 1:
            examples = sum(size for _, size in plan.pieces(micro.update, trainer.global_rank))
            self._average(examples / micro.update.effective_batch_size, trainer)

    def _average(self, share: float, trainer: pl.Trainer) -> None:
        layers = [layer for layer in self._layers if layer.training and not isinstance(layer, nn.SyncBatchNorm)]
        here = [each for layer in layers for each in (layer.running_mean, layer.running_var) if each is not None]
        if not here:
            return
        # In double precision, so that numbers that are equal on all devices do not change.
        total = trainer.strategy.reduce(torch.cat([each.flatten() for each in here]).double() * share, reduce_op="sum")
        means = total.split([each.numel() for each in here])
        torch._foreach_copy_(here, [mean.view_as(each) for mean, each in zip(means, here, strict=True)])

    def _copy(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._buffers.values()]

    # -- state ----------------------------------------------------------------------------------------------------------------

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the statistics as they were before the current update into a checkpoint."""
        checkpoint[_KEY] = dict(zip(self._buffers, (value.clone() for value in self._before_update), strict=True))

    @staticmethod
    def load(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """What `save` put there; empty if the checkpoint was saved between two updates."""
        return dict(checkpoint.get(_KEY, {}))

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Set the statistics to `values`, by name."""
        for name, value in values.items():
            self._buffers[name].copy_(value)

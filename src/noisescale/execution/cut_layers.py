"""The layers of a network whose output depends on how a batch is cut, and how to turn that off in a copy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from noisescale.plans.plan import Plan, Update

__all__ = ["batch_norms", "dropouts", "obeys", "see_whole_updates", "turn_off"]


def dropouts(net: nn.Module) -> list[nn.Module]:
    """The layers that drop something in training: dropout layers, and attention and recurrent layers that drop by themselves."""
    return [layer for layer in net.modules() if layer.training and _probability(layer) > 0]


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """The layers of batch norm that use the statistics of the batch: in training, or always, if they keep no running statistics."""
    return [
        layer
        for layer in net.modules()
        if isinstance(layer, _BatchNorm) and (layer.training or (layer.running_mean is None and layer.running_var is None))
    ]


def see_whole_updates(norms: Sequence[_BatchNorm], plan: Plan, updates: Iterable[Update]) -> bool:
    """Whether the statistics are those of whole updates: synchronised over all devices, each of which runs once per update."""
    if not all(isinstance(layer, nn.SyncBatchNorm) and _size(layer.process_group) == plan.world_size for layer in norms):
        return False
    return all(update.accumulate_grad_batches == 1 for update in updates)


def turn_off(layers: Iterable[nn.Module]) -> None:
    """Let dropout drop nothing, and batch norm use running statistics: its own, or mean 0 and variance 1 if it has none."""
    for layer in layers:
        if isinstance(layer, _BatchNorm):
            layer.training = False
            if layer.running_mean is None:
                like = next((parameter for parameter in layer.parameters()), torch.ones(()))
                layer.running_mean = torch.zeros(layer.num_features, dtype=like.dtype, device=like.device)
                layer.running_var = torch.ones_like(layer.running_mean)
        elif isinstance(layer, _DropoutNd):
            layer.p = 0.0
        else:
            layer.dropout = 0.0  # type: ignore[assignment]


def obeys(layer: _BatchNorm) -> bool:
    """Whether `turn_off` is known to work: the layer has no forward pass of its own."""
    return type(layer).forward.__module__.partition(".")[0] in ("torch", "noisescale")


def _probability(layer: nn.Module) -> float:
    p = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0.0)
    return float(p) if isinstance(p, (int, float)) else 0.0


def _size(group: object) -> int:
    distributed = torch.distributed
    return distributed.get_world_size(group) if distributed.is_available() and distributed.is_initialized() else 1  # type: ignore[arg-type]

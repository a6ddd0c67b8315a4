"""Networks compiled in place."""

from __future__ import annotations

import torch
from torch import nn

from noisescale.models.normalization import GhostBatchNorm2d

__all__ = ["compile_in_place"]


def compile_in_place(net: nn.Module, mode: str | None) -> None:
    """Let torch compile `net` where it is first called, for any number of examples; names of its weights stay what they are.

    Shapes are dynamic, so micro-batches of all sizes share a graph: one in training and one in evaluation, and for a single example,
    which torch always treats by itself, one each. Ghost batch norm, whose chunks change with the batch, stays uncompiled. Past
    `torch._dynamo.config.recompile_limit` graphs of a function torch says so once and runs the network as it is.

    Args:
        net: compiled in place; its `state_dict` is that of the same network uncompiled.
        mode: torch.compile's; None is its default. reduce-overhead records one CUDA graph for each size of a micro-batch.
    """
    for layer in net.modules():
        if isinstance(layer, GhostBatchNorm2d):
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    net.compile(dynamic=True, mode=mode)

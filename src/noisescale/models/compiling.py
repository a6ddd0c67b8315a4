"""Compile a network in place."""

from __future__ import annotations

import torch
from torch import nn

from noisescale.models.normalization import GhostBatchNorm2d

__all__ = ["compile_in_place"]


def compile_in_place(net: nn.Module, mode: str | None) -> None:
    """Have torch compile `net` when it is first called, for any number of examples; the names of its weights do not change.

    Shapes are dynamic, so micro-batches of all sizes share a graph: one for training and one for evaluation, and one more of each for a
    single example, which torch always treats separately. Ghost batch norm is not compiled, because its chunks change with the batch. Beyond
    `torch._dynamo.config.recompile_limit` graphs of a function, torch warns once and runs the network uncompiled.

    Args:
        net: compiled in place; its `state_dict` is that of the same network uncompiled.
        mode: the mode of torch.compile; None: its default. reduce-overhead records a CUDA graph for each size of a micro-batch.
    """
    for layer in net.modules():
        if isinstance(layer, GhostBatchNorm2d):
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    net.compile(dynamic=True, mode=mode)

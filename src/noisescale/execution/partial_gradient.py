"""Save the gradient of an unfinished update in a checkpoint, and restore it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["load_gradient", "restore_gradient", "save_gradient"]

_KEY = "partial_gradient"


def save_gradient(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Put a copy of the gradients of `module` into a checkpoint, as a dictionary from parameter name to gradient."""
    checkpoint[_KEY] = {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}


def load_gradient(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The gradients that `save_gradient` put there; None if there are none, as in a checkpoint that was saved between two updates."""
    return checkpoint.get(_KEY)


def restore_gradient(module: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Set the gradients of `module` to copies of `gradients`, on the device and in the memory order of each parameter.

    The memory order matters: torch's fused optimizers are silently wrong if a parameter and its gradient differ in it.
    """
    for name, parameter in module.named_parameters():
        if name in gradients:
            parameter.grad = torch.empty_like(parameter).copy_(gradients[name])

"""What all models share: the checks of shapes and widths, how a network is computed, and the initialisation of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisescale.errors import ConfigError, check_count

__all__ = ["FREE_ON_RESUME", "check_images", "check_shape", "check_widths", "compute_as", "he_normal_", "to_channels_last"]


FREE_ON_RESUME = frozenset({"channels_last", "compile"})
"""Options of `compute_as` that a resumed run may change, because they decide how the network is computed, not what it learns."""


def compute_as(net: nn.Module, *, channels_last: bool, compile: bool | str) -> nn.Module:
    """`net` itself, with a memory format and, if asked for, compilation: the keys that all options of conf/model share.

    Neither changes the names or the shapes in the `state_dict`. They do not change the results either, except for rounding and for the
    masks that compiled dropout draws.

    Args:
        net: the network, changed in place.
        channels_last: store weights and images in the memory order n, h, w, c; shapes stay (n, c, h, w).
        compile: whether torch.compile compiles the network at its first call, see `compile_in_place`; a string is the mode.
    """
    if channels_last:
        to_channels_last(net)
    if compile:
        from noisescale.models.compiling import compile_in_place

        compile_in_place(net, None if compile is True else compile)
    return net


def to_channels_last(net: nn.Module) -> None:
    """Convert the weights of `net`, in place, and the images of each call to the memory order n, h, w, c."""
    net.to(memory_format=torch.channels_last)
    net.register_forward_pre_hook(_images_channels_last)


def _images_channels_last(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *others = inputs
    return images.contiguous(memory_format=torch.channels_last), *others


def check_shape(input_shape: Sequence[int], num_outputs: int) -> int:
    """The number of values of an example, prod(input_shape); raises `ConfigError` unless all sizes are whole numbers of at least 1."""
    if not isinstance(input_shape, Sequence) or not input_shape:
        raise ConfigError("input_shape", input_shape, "must be the shape of one example", "for example (channels, height, width)")
    for size in input_shape:
        check_count("input_shape", size)
    check_count("num_outputs", num_outputs, unit="outputs")
    return math.prod(input_shape)


def check_images(input_shape: Sequence[int], num_outputs: int) -> tuple[int, int, int]:
    """(channels, height, width); raises `ConfigError` unless `input_shape` is that of an image, see `check_shape`."""
    check_shape(input_shape, num_outputs)
    if len(input_shape) != 3:
        problem = "must be that of an image: channels, height and width in pixels"
        raise ConfigError("input_shape", tuple(input_shape), problem, "mlp and logistic take any shape")
    channels, height, width = input_shape
    return channels, height, width


def check_widths(widths: Any) -> list[int]:
    """`widths` as a plain list; raises `ConfigError` unless it is a list of whole numbers that are at least 1."""
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise ConfigError("widths", widths, "must be a list of whole numbers", "write [128] for one layer")
    for width in widths:
        check_count("widths", width, unit="units or channels")
    return list(widths)


def he_normal_(module: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw the weights of convolutions and linear layers from N(0, 2 / fan) and set their biases to 0 (He et al. 2015, arXiv:1502.01852).

    fan_in (eq. 10) preserves the size of the activations from layer to layer, fan_out (eq. 14) the size of the gradients. Without
    normalisation the first matters more; with it, either will do.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

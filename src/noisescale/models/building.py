"""What all models share: construction, the checks of image sizes and widths, and the initialisation of the weights."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noisescale.errors import ConfigError, check_count

__all__ = ["FREE_ON_RESUME", "check_images", "check_widths", "he_normal_", "network", "to_channels_last"]


FREE_ON_RESUME = frozenset({"channels_last", "compile"})
"""Options of `network` that a resumed run may change, because they decide how the network is computed, not what it learns."""


def network(architecture: str, *, channels_last: bool, compile: bool | str, **options: Any) -> nn.Module:
    """`architecture(**options)` with a memory format and, if asked for, compilation: what conf/model describes.

    Neither `channels_last` nor `compile` changes the names or the shapes in the `state_dict`. They do not change the results either, except
    for rounding and for the masks that compiled dropout draws.

    Args:
        architecture: dotted name of an `nn.Module`, for example `noisescale.models.MLP`.
        channels_last: store weights and images in the memory order n, h, w, c; shapes stay (n, c, h, w).
        compile: whether torch.compile compiles the network at its first call, see `compile_in_place`; a string is the mode.
        options: the options of the architecture.
    """
    net: nn.Module = pkgutil.resolve_name(architecture)(**options)
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


def check_images(in_channels: int, num_classes: int, image_size: Sequence[int]) -> tuple[int, int]:
    """The (height, width) in pixels; raises `ConfigError` unless all sizes are at least 1 and there are at least two classes."""
    check_count("in_channels", in_channels, unit="channels")
    check_count("num_classes", num_classes, at_least=2, unit="classes")
    if len(image_size) != 2:
        raise ConfigError("image_size", list(image_size), "must be two numbers, height and width in pixels")
    height, width = image_size
    check_count("image_size", height, unit="pixels")
    check_count("image_size", width, unit="pixels")
    return height, width


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

"""What all models share: the description of the images, lists of widths, and the start of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from noisescale.errors import ConfigError, check_count

__all__ = ["check_images", "check_widths", "he_normal_"]


def check_images(in_channels: int, num_classes: int, image_size: Sequence[int]) -> tuple[int, int]:
    """The (height, width) in pixels; `ConfigError` unless all sizes are at least 1 and there are two classes or more."""
    check_count("in_channels", in_channels, unit="channels")
    check_count("num_classes", num_classes, at_least=2, unit="classes")
    if len(image_size) != 2:
        raise ConfigError("image_size", list(image_size), "must be two numbers, height and width in pixels")
    height, width = image_size
    check_count("image_size", height, unit="pixels")
    check_count("image_size", width, unit="pixels")
    return height, width


def check_widths(widths: Any) -> list[int]:
    """`widths` as a plain list; `ConfigError` unless it is a list of whole numbers of at least 1."""
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise ConfigError("widths", widths, "must be a list of whole numbers", "write [128] for one layer")
    for width in widths:
        check_count("widths", width, unit="units or channels")
    return list(widths)


def he_normal_(module: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Weights of convolutions and linear layers ~ N(0, 2 / fan), their biases 0, in place (He et al. 2015, arXiv:1502.01852).

    fan_in (eq. 10) keeps the size of the activations from layer to layer, fan_out (eq. 14) that of the gradients: without
    normalisation the first matters more, with it either will do.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

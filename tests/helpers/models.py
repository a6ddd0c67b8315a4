"""The networks of conf/model, small enough to train in a test."""

from __future__ import annotations

import math
import pkgutil
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from noisescale.models.building import compute_as
from tests.helpers.repository import CONF

SMALL: dict[str, dict[str, Any]] = {"resnet9": {"width": 4}, "resnet18": {"width": 8}, "wrn": {"depth": 10, "width": 1}}
"""The options that make the large networks small."""


def config_of(name: str, **options: Any) -> Any:
    """The config of conf/model/NAME.yaml, with the keys that all models share and with `options`."""
    own = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    assert own.pop("defaults") == ["_common", "_self_"]
    return OmegaConf.merge(OmegaConf.load(CONF / "model" / "_common.yaml"), own, options)


def network_of(config: DictConfig, *shape: int, outputs: int = 10) -> nn.Module:
    """The network of such a config, for inputs of a shape."""
    keys: Any = OmegaConf.to_container(config)
    how = {key: keys.pop(key) for key in ("channels_last", "compile")}
    make = pkgutil.resolve_name(keys.pop("_target_"))
    return compute_as(make(input_shape=shape, num_outputs=outputs, **keys), **how)


def build(name: str, channels: int = 3, size: int = 32, **options: Any) -> nn.Module:
    """The network for ten classes of square images."""
    return network_of(config_of(name, **options), channels, size, size)


class NormedPixels(nn.Module):
    """A network of the user's own, whose batch norm its config does not show: `logits = W norm(x) + b`."""

    def __init__(self, input_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        pixels = math.prod(input_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(pixels), nn.Linear(pixels, num_outputs))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]

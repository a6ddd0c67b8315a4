"""The networks of conf/model, small enough to train in a test."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from tests.helpers.repository import CONF

SMALL: dict[str, dict[str, Any]] = {"resnet9": {"width": 4}, "resnet18": {"width": 8}, "wrn": {"depth": 10, "width": 1}}
"""The options that make the large networks small."""


def config_of(name: str, **options: Any) -> Any:
    """The config of conf/model/NAME.yaml, with the keys that all models share and with `options`."""
    own = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    assert own.pop("defaults") == ["_common", "_self_"]
    return OmegaConf.merge(OmegaConf.load(CONF / "model" / "_common.yaml"), own, options)


def build(name: str, channels: int = 3, size: int = 32, **options: Any) -> nn.Module:
    """The network for ten classes of square images."""
    model: nn.Module = instantiate(config_of(name, **options), in_channels=channels, num_classes=10, image_size=(size, size))
    return model


class NormedPixels(nn.Module):
    """A network of the user's own, whose batch norm its config does not show: `logits = W norm(x) + b`."""

    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        pixels = in_channels * image_size[0] * image_size[1]
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(pixels), nn.Linear(pixels, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits

"""Models without convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from noisescale.models.building import check_images, check_widths, he_normal_

__all__ = ["MLP", "Logistic"]


class Logistic(nn.Module):
    """`logits = W x + b` on the flattened pixels: softmax regression. Its cross-entropy loss is convex.

    Args:
        in_channels, num_classes, image_size: c, number of classes, (h, w) in pixels.

    Shapes: (n, c, h, w) -> (n, num_classes). W has num_classes x (c h w) entries.
    Raises: ConfigError for sizes below 1 and for fewer than two classes.
    Initialisation: torch's own.
    """

    def __init__(self, *, in_channels: int, num_classes: int, image_size: Sequence[int]) -> None:
        super().__init__()
        height, width = check_images(in_channels, num_classes, image_size)
        self.linear = nn.Linear(in_channels * height * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


class MLP(nn.Module):
    """`x_{i+1} = relu(W_i x_i + b_i)`, then one linear layer to the logits.

    Args:
        in_channels, num_classes, image_size: c, number of classes, (h, w) in pixels.
        widths: units of each hidden layer; with an empty list the model is the same as `Logistic`.

    Shapes: (n, c, h, w) -> (n, num_classes).
    Raises: ConfigError unless the widths are whole numbers that are at least 1.
    Initialisation: He et al. 2015, arXiv:1502.01852, eq. 10 (variance 2 / fan_in, biases 0); torch's own for the last layer.
    """

    def __init__(self, *, in_channels: int, num_classes: int, image_size: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        height, width = check_images(in_channels, num_classes, image_size)
        sizes = [in_channels * height * width, *check_widths(widths)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.classifier = nn.Linear(sizes[-1], num_classes)
        he_normal_(self.features, "fan_in")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits

"""Plain convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from noisescale.errors import check_count
from noisescale.models.building import check_images, check_widths, he_normal_
from noisescale.models.normalization import batch_norm, check_norm

__all__ = ["CNN", "VGG11"]

# Configuration A of Simonyan & Zisserman, table 1: channels of the 3x3 convolutions, a pool after each inner list.
_VGG11 = [[64], [128], [256, 256], [512, 512], [512, 512]]


class CNN(nn.Module):
    """One stage per width, `x <- relu(pool(conv3x3(x)))`, then one hidden layer and the logits.

    The pool is a 2x2 max-pool that keeps an odd last row or column (28 -> 14 -> 7 -> 4), so any image size works. It comes before
    the ReLU because the two commute and only a quarter of the values is left after it. Without batch norm (`norm: none`) the gradient
    of a batch is the mean of its examples' gradients, so cutting the batch into micro-batches changes nothing.

    Args:
        input_shape, num_outputs: (c, h, w) of an image, and the number of classes or target values.
        widths: channels of each stage.
        hidden: units of the hidden layer.
        norm: none | batch: with batch, there is a batch norm between convolution and pool.
        ghost_batch_size: the most examples that each batch norm sees, see `GhostBatchNorm2d`; None: the whole micro-batch.

    Shapes: (n, c, h, w) -> (n, num_outputs).
    Raises: ConfigError.
    Initialisation: He et al. 2015, variance 2 / fan_in, biases 0; torch's own for the last layer.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        widths: Sequence[int],
        hidden: int,
        norm: str,
        ghost_batch_size: int | None,
    ) -> None:
        super().__init__()
        in_channels, height, width = check_images(input_shape, num_outputs)
        check_count("hidden", hidden, unit="units")
        check_norm(norm, ghost_batch_size)
        channels = [in_channels, *check_widths(widths)]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [*_convolution(before, after, norm, ghost_batch_size), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
            height, width = -(-height // 2), -(-width // 2)
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden, num_outputs)
        he_normal_(self.features, "fan_in")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class VGG11(nn.Module):
    """Eight 3x3 convolutions (64 M 128 M 256 256 M 512 512 M 512 512 M; M is a 2x2 max-pool), global average pooling, one linear layer.

    The convolutions are configuration A of the paper. Its three wide linear layers are meant for 224x224 images and are
    replaced with one, as is usual for small images: 9.2 M parameters, not 133 M. The pools round up, so images down to 1x1
    pixel work.

    Args:
        input_shape, num_outputs: (c, h, w) of an image, and the number of classes or target values (any size: the head averages pixels).
        norm: none (as in the paper) | batch: with batch, there is a batch norm after each convolution, which then has no bias.
        ghost_batch_size: the most examples that each batch norm sees, see `GhostBatchNorm2d`; None: the whole micro-batch.

    Shapes: (n, c, h, w) -> (n, num_outputs).
    Raises: ConfigError.
    Initialisation: He et al. 2015, variance 2 / fan_in, biases 0 (the paper started from a shallower trained network).
    Source: Simonyan & Zisserman 2014, arXiv:1409.1556, table 1.
    """

    def __init__(self, *, input_shape: Sequence[int], num_outputs: int, norm: str, ghost_batch_size: int | None) -> None:
        super().__init__()
        in_channels, _, _ = check_images(input_shape, num_outputs)
        check_norm(norm, ghost_batch_size)
        layers: list[nn.Module] = []
        before = in_channels
        for stage in _VGG11:
            for after in stage:
                layers += [*_convolution(before, after, norm, ghost_batch_size), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(before, num_outputs)
        he_normal_(self.features, "fan_in")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _convolution(before: int, after: int, norm: str, ghost_batch_size: int | None) -> list[nn.Module]:
    """A 3x3 convolution that keeps the image size, either with a bias or with a batch norm, which has a bias of its own."""
    if norm == "none":
        return [nn.Conv2d(before, after, 3, padding=1)]
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), batch_norm(after, ghost_batch_size)]

"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from noisescale.errors import ConfigError, check_count, check_number
from noisescale.models.building import check_images, he_normal_
from noisescale.models.normalization import batch_norm

__all__ = ["ResNet9", "ResNet18", "WideResNet"]


def _conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


class _BasicBlock(nn.Module):
    """`relu(F(x) + shortcut(x))`, F = conv norm relu conv norm; the shortcut is x, or a 1x1 convolution and norm if the shape changes."""

    def __init__(self, before: int, after: int, stride: int, ghost_batch_size: int | None) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv3x3(before, after, stride),
            batch_norm(after, ghost_batch_size),
            nn.ReLU(),
            _conv3x3(after, after),
            batch_norm(after, ghost_batch_size),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), batch_norm(after, ghost_batch_size))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.residual(x) + self.shortcut(x)).relu()
        return y


class ResNet18(nn.Module):
    """3x3 stem, four stages of two basic blocks with 1, 2, 4, 8 times `width` channels, global average pooling, one linear layer.

    The widths and blocks are those of the paper's 18-layer ImageNet network; its 7x7 stride-2 stem and max-pool, made for
    224x224 images, are replaced with one 3x3 convolution. 11.17 M parameters for 10 classes. Not to be confused with the
    ResNet-20/32/56 family of the paper's CIFAR section, which has 0.27 to 0.85 M.

    Args:
        input_shape, num_outputs: (c, h, w) of an image, and the number of classes or target values (any size: the head averages pixels).
        width: channels of the first stage.
        ghost_batch_size: the most examples that each batch norm sees, see `GhostBatchNorm2d`; None: the whole micro-batch.

    Shapes: (n, c, h, w) -> (n, num_outputs). The last stage sees images that are 8 times smaller, for 8x8 images a single pixel;
        in training, a micro-batch (or ghost batch) of one such example has no variance and torch refuses it.
    Raises: ConfigError.
    Initialisation: He et al. 2015, variance 2 / fan_out, for the convolutions; torch's own for the rest.
    Source: He, Zhang, Ren, Sun 2015, arXiv:1512.03385, table 1.
    """

    def __init__(self, *, input_shape: Sequence[int], num_outputs: int, width: int, ghost_batch_size: int | None) -> None:
        super().__init__()
        in_channels, _, _ = check_images(input_shape, num_outputs)
        check_count("width", width, unit="channels")
        layers: list[nn.Module] = [_conv3x3(in_channels, width), batch_norm(width, ghost_batch_size), nn.ReLU()]
        before = width
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            layers += [
                _BasicBlock(before, after, stride, ghost_batch_size),
                _BasicBlock(after, after, 1, ghost_batch_size),
            ]
            before = after
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        he_normal_(self.features, "fan_out")
        self.classifier = nn.Linear(before, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class _Residual(nn.Module):
    """`x + F(x)`, F = conv norm relu conv norm relu."""

    def __init__(self, channels: int, ghost_batch_size: int | None) -> None:
        super().__init__()
        self.residual = nn.Sequential(*(_unit(channels, channels, ghost_batch_size) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.residual(x)
        return y


class ResNet9(nn.Module):
    """A stem and three stages with 1, 2, 4, 8 times `width` channels; each stage has a 2x2 max-pool, the first and third a residual block.

    A unit is conv3x3 norm relu; there are eight of them, four in the two residual blocks. They are followed by global max-pooling and
    one linear layer, whose logits are multiplied by `logit_scale`. 6.57 M parameters for 10 classes. The pools round up, so any image
    size works.

    Args:
        input_shape, num_outputs: (c, h, w) of an image, and the number of classes or target values (any size).
        width: channels of the stem.
        logit_scale: > 0; below 1, the network starts and stays less confident.
        ghost_batch_size: the most examples that each batch norm sees, see `GhostBatchNorm2d`; None: the whole micro-batch.

    Shapes: (n, c, h, w) -> (n, num_outputs).
    Raises: ConfigError.
    Initialisation: He et al. 2015, variance 2 / fan_out, for the convolutions; torch's own for the rest.
    Source: D. Page 2018, How to train your ResNet; the network of his DAWNBench entry.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        width: int,
        logit_scale: float,
        ghost_batch_size: int | None,
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_images(input_shape, num_outputs)
        check_count("width", width, unit="channels")
        check_number("logit_scale", logit_scale, above=0.0)
        self.logit_scale = logit_scale
        layers: list[nn.Module] = [_unit(in_channels, width, ghost_batch_size)]
        for stage, residual in enumerate((True, False, True)):
            before, after = 2**stage * width, 2 ** (stage + 1) * width
            layers += [_unit(before, after, ghost_batch_size), nn.MaxPool2d(2, ceil_mode=True)]
            if residual:
                layers.append(_Residual(after, ghost_batch_size))
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        he_normal_(self.features, "fan_out")
        self.classifier = nn.Linear(8 * width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images)) * self.logit_scale
        return logits


def _unit(before: int, after: int, ghost_batch_size: int | None) -> nn.Sequential:
    return nn.Sequential(_conv3x3(before, after), batch_norm(after, ghost_batch_size), nn.ReLU())


class _PreActivationBlock(nn.Module):
    """`F(a) + shortcut`, a = relu(norm(x)), F = conv norm relu dropout conv; the shortcut is x, or a 1x1 convolution of a."""

    def __init__(self, before: int, after: int, stride: int, dropout: float, ghost_batch_size: int | None) -> None:
        super().__init__()
        self.activation = nn.Sequential(batch_norm(before, ghost_batch_size), nn.ReLU())
        self.residual = nn.Sequential(
            _conv3x3(before, after, stride),
            batch_norm(after, ghost_batch_size),
            nn.ReLU(),
            *([nn.Dropout(dropout)] if dropout else []),
            _conv3x3(after, after),
        )
        self.projection = nn.Conv2d(before, after, 1, stride=stride, bias=False) if stride != 1 or before != after else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(x)
        y: Tensor = self.residual(activated) + (x if self.projection is None else self.projection(activated))
        return y


class WideResNet(nn.Module):
    """WRN-depth-width: 3x3 stem, three stages of `(depth - 4) / 6` pre-activation blocks, global average pooling, one linear layer.

    The stem has 16 channels, the stages 16, 32, 64 times `width` channels; the second and the third halve the image size.
    WRN-16-4 has 2.7 M parameters, WRN-28-10 36.5 M, for 10 classes.

    Args:
        input_shape, num_outputs: (c, h, w) of an image, and the number of classes or target values (any size: the head averages pixels).
        depth: number of convolutions as the paper counts them, 6 n + 4 with n >= 1: 10, 16, 22, 28, 40.
        width: the paper's widening factor k, not a number of channels.
        dropout: probability in [0, 1) between the two convolutions of a block. It adds noise that g does not include.
        ghost_batch_size: the most examples that each batch norm sees, see `GhostBatchNorm2d`; None: the whole micro-batch.

    Shapes: (n, c, h, w) -> (n, num_outputs).
    Raises: ConfigError.
    Initialisation: He et al. 2015, variance 2 / fan_out, for the convolutions; torch's own for the rest.
    Source: Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 1.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        depth: int,
        width: int,
        dropout: float,
        ghost_batch_size: int | None,
    ) -> None:
        super().__init__()
        in_channels, _, _ = check_images(input_shape, num_outputs)
        check_count("depth", depth, at_least=10)
        if (depth - 4) % 6:
            below = depth - (depth - 4) % 6
            raise ConfigError("depth", depth, "must be 6 n + 4 for a whole number n", f"choose {below} or {below + 6}")
        check_count("width", width)
        check_number("dropout", dropout, at_least=0.0, below=1.0)
        layers: list[nn.Module] = [_conv3x3(in_channels, 16)]
        before = 16
        for after, first_stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for block in range((depth - 4) // 6):
                layers.append(_PreActivationBlock(before, after, 1 if block else first_stride, dropout, ghost_batch_size))
                before = after
        self.features = nn.Sequential(*layers, batch_norm(before, ghost_batch_size), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        he_normal_(self.features, "fan_out")
        self.classifier = nn.Linear(before, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits

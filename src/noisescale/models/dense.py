"""Models without convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from noisescale.models.building import check_shape, check_widths, he_normal_
from noisescale.models.normalization import batch_norm, check_norm

__all__ = ["MLP", "Logistic"]


class Logistic(nn.Module):
    """`outputs = W x + b` on the flattened inputs: softmax regression with cross-entropy, linear regression with the squared error.

    Both losses are convex.

    Args:
        input_shape: shape of one example, such as (c, h, w) or (features,).
        num_outputs: number of classes, or of target values.

    Shapes: (n, *input_shape) -> (n, num_outputs). W has num_outputs x prod(input_shape) entries.
    Raises: ConfigError for sizes below 1.
    Initialisation: torch's own.
    """

    def __init__(self, *, input_shape: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(check_shape(input_shape, num_outputs), num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs.flatten(1))
        return outputs


class MLP(nn.Module):
    """`x_{i+1} = relu(norm(W_i x_i + b_i))`, then one linear layer.

    Args:
        input_shape: shape of one example, such as (c, h, w) or (features,); it is flattened.
        num_outputs: number of classes, or of target values.
        widths: units of each hidden layer; with an empty list the model is the same as `Logistic`.
        norm: none | batch: with batch, there is a batch norm before each relu, and no b_i.
        ghost_batch_size: the most examples that each batch norm sees, see `GhostBatchNorm2d`; None: the whole micro-batch.

    Shapes: (n, *input_shape) -> (n, num_outputs).
    Raises: ConfigError unless the widths and the sizes are whole numbers that are at least 1.
    Initialisation: He et al. 2015, arXiv:1502.01852, eq. 10 (variance 2 / fan_in, biases 0); torch's own for the last layer.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        widths: Sequence[int],
        norm: str = "none",
        ghost_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_norm(norm, ghost_batch_size)
        sizes = [check_shape(input_shape, num_outputs), *check_widths(widths)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out, bias=norm == "none"), *_normalized(fan_out, norm, ghost_batch_size), nn.ReLU()]
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.classifier = nn.Linear(sizes[-1], num_outputs)
        he_normal_(self.features, "fan_in")

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.classifier(self.features(inputs))
        return outputs


def _normalized(width: int, norm: str, ghost_batch_size: int | None) -> list[nn.Module]:
    """Batch norm of (n, width), as of images of one pixel; nothing without it."""
    return [nn.Unflatten(1, (width, 1, 1)), batch_norm(width, ghost_batch_size), nn.Flatten()] if norm == "batch" else []

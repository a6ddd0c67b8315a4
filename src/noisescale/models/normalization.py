"""Batch normalisation over a fixed number of examples, whatever the batch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisescale.errors import ConfigError, check_choice, check_count

__all__ = ["GhostBatchNorm2d", "batch_norm", "check_norm"]


class GhostBatchNorm2d(nn.BatchNorm2d):
    """`y = weight (x - mean_j) / sqrt(var_j + eps) + bias`, where mean and variance are those of ghost batch j (in training).

    A batch of n examples is cut, in order, into `k = ceil(n / ghost_batch_size)` ghost batches whose sizes differ by at
    most one. The running statistics take one step of `momentum` per ghost batch, in order; evaluation uses them.
    For `n <= ghost_batch_size` the result equals that of `nn.BatchNorm2d`, bit for bit.

    Under gradient accumulation every batch norm sees only the MICRO-batch, so accumulation with a fixed micro-batch is already
    a form of ghost batch normalisation. If `ghost_batch_size` divides the micro-batch, then the ghost batches, and with them the
    gradient, do not depend on how an effective batch is cut into micro-batches. A micro-batch smaller than `ghost_batch_size` is
    normalised over its own examples: this layer limits the number of examples but cannot collect more of them.
    `nn.SyncBatchNorm.convert_sync_batchnorm` would replace this layer: do not use the two together.

    Args:
        num_features: number of channels c.
        ghost_batch_size: the most examples in a ghost batch, at least 2.

    Shapes: (n, c, h, w) -> (n, c, h, w).
    Raises: ConfigError for a bad `ghost_batch_size`; ValueError (from torch), in training, if a ghost batch is a single example
        of 1x1 pixel, which has no variance.
    Source: Hoffer, Hubara, Soudry 2017, arXiv:1705.08741, algorithm 1.
    """

    def __init__(self, num_features: int, ghost_batch_size: int) -> None:
        check_count("ghost_batch_size", ghost_batch_size, at_least=2, unit="examples")
        super().__init__(num_features)
        self.ghost_batch_size = ghost_batch_size

    def forward(self, input: Tensor) -> Tensor:
        n = input.shape[0]
        chunks = -(-n // self.ghost_batch_size)
        if not self.training or chunks <= 1:
            return super().forward(input)
        # torch's `update_bn` sets momentum to None (a cumulative average) for averaged weights.
        if n % chunks or self.momentum is None:
            return torch.cat([super(GhostBatchNorm2d, self).forward(chunk) for chunk in input.tensor_split(chunks)])
        return self._equal_chunks(input, chunks, self.momentum)

    def _equal_chunks(self, input: Tensor, k: int, momentum: float) -> Tensor:
        """All ghost batches in one call: chunk j of channel i becomes channel `j c + i` of a batch of n/k examples."""
        assert self.running_mean is not None  # for the type checker: this layer always has running statistics
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        n, c, h, w = input.shape
        stacked = input.reshape(k, n // k, c, h, w).transpose(0, 1).reshape(n // k, k * c, h, w)
        # With momentum 1, a running average is the last statistic itself.
        mean = torch.zeros_like(self.running_mean).repeat(k)
        var = torch.zeros_like(self.running_var).repeat(k)
        out = F.batch_norm(stacked, mean, var, self.weight.repeat(k), self.bias.repeat(k), True, 1.0, self.eps)
        with torch.no_grad():
            for running, statistic in ((self.running_mean, mean), (self.running_var, var)):
                for of_chunk in statistic.view(k, c):
                    running.lerp_(of_chunk, momentum)
            self.num_batches_tracked.add_(k)
        return out.view(n // k, k, c, h, w).transpose(0, 1).reshape(n, c, h, w)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"


def batch_norm(channels: int, ghost_batch_size: int | None) -> nn.BatchNorm2d:
    """`nn.BatchNorm2d(channels)`, or `GhostBatchNorm2d` if a ghost batch size (examples) is given."""
    return nn.BatchNorm2d(channels) if ghost_batch_size is None else GhostBatchNorm2d(channels, ghost_batch_size)


def check_norm(norm: str, ghost_batch_size: int | None) -> None:
    """Raise `ConfigError` unless `norm` is none or batch; with a ghost batch size it must be batch."""
    check_choice("norm", norm, ["none", "batch"])
    if norm == "none" and ghost_batch_size is not None:
        raise ConfigError("ghost_batch_size", ghost_batch_size, "must be null for a model without batch norm", "set norm=batch")

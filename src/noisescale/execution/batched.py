"""Data sets that return whole batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

__all__ = ["BatchedDataset"]


class BatchedDataset(Dataset[Any], ABC):
    """A data set that returns whole batches from a tensor of indices.

    It needs no collate_fn and draws no random numbers. Without workers the planned loader calls it directly, with no DataLoader between.
    """

    @abstractmethod
    def take(self, indices: torch.Tensor) -> Any:
        """The collated batch of the examples `indices`, in their order; it depends on nothing else.

        Args:
            indices: int64 (n,), on the CPU.
        """

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The same for a plain DataLoader, whose collate_fn must return the batch unchanged."""
        return self.take(torch.as_tensor(indices, dtype=torch.int64))

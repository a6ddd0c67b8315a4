"""Data sets that give whole batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

__all__ = ["BatchedDataset"]


class BatchedDataset(Dataset[Any], ABC):
    """A data set that gives whole batches: no list of indices, no collate, no random numbers, and without workers no DataLoader."""

    @abstractmethod
    def take(self, indices: torch.Tensor) -> Any:
        """The collated batch of `indices`, int64 (n,) on the CPU, in their order; a function of them alone."""

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """For a plain DataLoader, whose collate_fn must give the batch back as it is."""
        return self.take(torch.as_tensor(indices, dtype=torch.int64))

"""Labelled uint8 images in memory: the data set that a loader indexes, their statistics, their normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Batch", "Examples", "ImageDataset", "Split", "as_is", "channel_statistics", "normalize"]

Split = Literal["train", "test"]
Batch = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Examples:
    """What a source delivers.

    Attributes:
        images: uint8, shape (n, c, h, w).
        labels: int64, shape (n,), in [0, len(class_names)).
        class_names: one name per class.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ImageDataset(Dataset[Batch]):
    """Images and labels with a batched fetch: `__getitems__` returns the batch already collated, by one indexed gather.

    Attributes:
        images: uint8, shape (n, c, h, w).
        labels: int64, shape (n,).
        with_indices: whether a batch is (images, labels, indices), as for training, or (images, labels).
    """

    images: Tensor
    labels: Tensor
    with_indices: bool

    def __len__(self) -> int:
        return self.labels.numel()

    def __getitem__(self, index: int) -> Batch:
        """One example: an image (c, h, w), its label, and, if asked for, its index; the latter two 0-dimensional."""
        return tuple(column[0] for column in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of `indices`, in their order: images uint8 (b, c, h, w), labels int64 (b,), and indices int64 (b,)."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        batch = (self.images.index_select(0, rows), self.labels.index_select(0, rows))  # several times faster than [rows]
        return (*batch, rows) if self.with_indices else batch


def as_is(batch: Any) -> Any:
    """The collate function of `ImageDataset`, whose batches need none."""
    return batch


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation of each channel over all images and pixels, in units of [0, 1].

    Exact up to the last division: both come from integer sums. A standard deviation below one grey level, 1/255, is
    given as 1/255, so that a constant channel normalises to zeros.

    Args:
        images: uint8, shape (n, c, h, w), at least one pixel per channel.
    """
    means, stds = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).tolist()
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        means.append(first / (255 * total))
        stds.append(max(math.sqrt(second * total - first * first) / total, 1.0) / 255)
    return tuple(means), tuple(stds)


def normalize(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """(images / 255 - mean) / std, in `dtype`.

    Computed in the precision of `mean` and rounded to `dtype` once, at the end.

    Args:
        images: uint8, shape (n, c, h, w).
        mean, std: floating, shape (c, 1, 1), in units of [0, 1], on the device of `images`.
        dtype: of the result.
    """
    return images.to(mean.dtype).div_(255).sub_(mean).div_(std).to(dtype)

"""Labelled uint8 images: the data set that a loader indexes, and the statistics and the normalisation of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from noisescale.execution.batched import BatchedDataset

__all__ = [
    "Batch",
    "Examples",
    "ImageDataset",
    "Images",
    "Split",
    "as_is",
    "channel_statistics",
    "channel_sums",
    "normalize",
    "statistics_of_sums",
    "sums_of",
]

Split = Literal["train", "val", "test"]
Batch = tuple[Tensor, ...]


class Images(Protocol):
    """A uint8 tensor of shape (n, c, h, w), or an object whose rows can be selected as if it were one."""

    @property
    def shape(self) -> torch.Size: ...

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows `index`, int64 (b,), of dimension `dim`, which is 0: a new tensor, uint8 (b, c, h, w)."""


@dataclass(frozen=True, eq=False)
class ImageDataset(BatchedDataset):
    """Images and labels, fetched a batch at a time; if the images are a tensor, by a single gather.

    Attributes:
        images: shape (n, c, h, w).
        labels: int64, shape (m,), of the m examples.
        with_indices: whether a batch is (images, labels, indices), as in training, or (images, labels).
        rows: int64, shape (m,): example i is `images[rows[i]]`. None: it is `images[i]`, and m = n.
    """

    images: Images
    labels: Tensor
    with_indices: bool
    rows: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.numel()

    def __getitem__(self, index: int) -> Batch:
        """One example: an image (c, h, w), its label and, with `with_indices`, its index; the latter two are 0-dimensional."""
        return tuple(column[0] for column in self.__getitems__([index]))

    def take(self, indices: Tensor) -> Batch:
        """int64 (b,) -> the collated batch: images uint8 (b, c, h, w), labels int64 (b,), and indices if asked for.

        It draws no random numbers. The batch is on the device of the data set, wherever `indices` are.
        """
        if self.labels.device.type == "cuda" != indices.device.type:
            indices = indices.pin_memory().to(self.labels.device, non_blocking=True)  # otherwise the GPU would be waited for
        else:
            indices = indices.to(self.labels.device)
        rows = indices if self.rows is None else self.rows.index_select(0, indices)
        # index_select is several times faster than [rows].
        batch = (self.images.index_select(0, rows), self.labels.index_select(0, indices))
        return (*batch, indices) if self.with_indices else batch

    def to(self, device: torch.device) -> ImageDataset:
        """A copy of this data set on `device`, as tensors."""
        images = self.images if isinstance(self.images, Tensor) and self.rows is None else self.take(torch.arange(len(self)))[0]
        return ImageDataset(images.to(device), self.labels.to(device), self.with_indices)


@dataclass(frozen=True, eq=False)
class Examples:
    """What the `read` method of a source returns.

    Attributes:
        images: shape (n, c, h, w).
        labels: int64, shape (m,), in [0, len(class_names)), of the m examples.
        class_names: one name per class.
        rows: int64, shape (m,): example i is `images[rows[i]]`. None: it is `images[i]`.
        resident: whether they may be kept on the training device.
        sums: `channel_sums` of each image, int64 (n, c, 3), if the source already knows them.
    """

    images: Images
    labels: Tensor
    class_names: tuple[str, ...]
    rows: Tensor | None = None
    resident: bool = True
    sums: Tensor | None = None

    def part(self, first: int, last: int, *, with_indices: bool) -> ImageDataset:
        """Examples `first` to `last` - 1. Nothing is copied: all parts share the images."""
        labels = self.labels[first:last]
        if self.rows is None:
            assert isinstance(self.images, Tensor)
            return ImageDataset(self.images[first:last], labels, with_indices)
        return ImageDataset(self.images, labels, with_indices, self.rows[first:last])


def as_is(batch: Any) -> Any:
    """The collate function for `ImageDataset`, whose batches need no collating."""
    return batch


def channel_sums(images: Tensor) -> Tensor:
    """Per channel, the number of pixels, their sum and the sum of their squares: uint8 (n, c, h, w) -> int64 (c, 3), exact.

    The sums of parts add up to the sums of the whole.
    """
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    value = torch.arange(256)
    return counts @ torch.stack((torch.ones_like(value), value, value * value), dim=1)


def sums_of(dataset: ImageDataset, known: Tensor | None) -> Tensor:
    """`channel_sums` of a data set, added up from the sums of each of its `images` if they are known, int64 (n, c, 3)."""
    if known is not None:
        return (known if dataset.rows is None else known.index_select(0, dataset.rows)).sum(0)
    parts = torch.arange(len(dataset)).split(1000)  # in parts, so that the copies stay small
    return torch.stack([channel_sums(dataset.take(part)[0]) for part in parts]).sum(0)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`statistics_of_sums` of uint8 images (n, c, h, w) with at least one pixel per channel."""
    return statistics_of_sums(channel_sums(images))


def statistics_of_sums(sums: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation of each channel over all images and pixels, in units of [0, 1].

    Exact up to the last division. A standard deviation below one grey level, 1/255, is raised to 1/255, so that a constant
    channel normalises to zeros.

    Args:
        sums: from `channel_sums`, int64 (c, 3), with at least one pixel per channel.
    """
    means, stds = [], []
    for total, first, second in sums.tolist():
        means.append(first / (255 * total))
        stds.append(max(math.sqrt(second * total - first * first) / total, 1.0) / 255)
    return tuple(means), tuple(stds)


def normalize(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """(images / 255 - mean) / std, in `dtype`.

    Computed in the precision of `mean` and rounded to `dtype` once, at the end.

    Args:
        images: uint8, shape (n, c, h, w).
        mean, std: floating point, shape (c, 1, 1), in units of [0, 1], on the same device as `images`.
        dtype: of the result.
    """
    # One subtraction and one multiplication per pixel, because divisions cost twice as much.
    return images.to(mean.dtype).sub_(255 * mean).mul_((255 * std).reciprocal()).to(dtype)

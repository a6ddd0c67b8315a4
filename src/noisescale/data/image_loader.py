"""How batches of images are fetched: by how many processes, and in which order if nothing else plans it."""

from __future__ import annotations

import os

from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

from noisescale.data.images import Batch, ImageDataset, as_is

__all__ = ["image_loader", "workers_for"]


def image_loader(
    dataset: ImageDataset, batch_size: int, num_workers: int, *, shuffle: bool, balanced: bool, pin_memory: bool
) -> DataLoader[Batch]:
    """The loader of `dataset`, in order, or shuffled, or drawn with class balance if it is both shuffled and `balanced`."""
    sampler = _balancing_sampler(dataset.labels) if shuffle and balanced else None
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle and sampler is None,
        sampler=sampler,
        collate_fn=as_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )


def workers_for(dataset: ImageDataset, devices: int) -> int:
    """0 if the images are in memory, otherwise the cores per device, from 1 to 8."""
    if isinstance(dataset.images, Tensor):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // devices))


def _balancing_sampler(labels: Tensor) -> WeightedRandomSampler:
    """N draws with replacement in which all classes are equally likely: the weight of an example is 1 / (the size of its class)."""
    return WeightedRandomSampler((1.0 / labels.bincount().double())[labels].tolist(), len(labels))

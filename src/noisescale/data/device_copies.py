"""What of a data set is kept on the training device, so that a batch is made there without waiting for the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noisescale.data.augment import crop_flip_table
from noisescale.data.images import ImageDataset

__all__ = ["DeviceCopies"]


class DeviceCopies:
    """Copies on a device, each made again when what it is a copy of changes, or the device.

    A pickled or copied object has none: another process makes its own.
    """

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}  # name -> (key, copy)

    def __reduce__(self) -> tuple[type[DeviceCopies], tuple[()]]:
        return DeviceCopies, ()

    def clear(self) -> None:
        """Forget all of them."""
        self._held.clear()

    def dataset(self, name: str, dataset: ImageDataset, device: torch.device) -> ImageDataset:
        """`dataset`, which is called `name`, on `device`."""
        held = self._held.get(name, (None, None))
        if held[0] != device:
            held = self._held[name] = (device, dataset.to(device))
        found: ImageDataset = held[1]
        return found

    def crops(self, epoch: int, device: torch.device, *, seed: int, num_examples: int, image_size: tuple[int, int]) -> Tensor:
        """`crop_flip_table` of the epoch, int64 (num_examples, 3)."""
        key = (epoch, device)
        if self._held.get("crops", (None,))[0] != key:
            table = crop_flip_table(seed=seed, epoch=epoch, num_examples=num_examples, image_size=image_size)
            self._held["crops"] = (key, table.to(device))
        found: Tensor = self._held["crops"][1]
        return found

    def statistics(self, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`mean` and `std` in the shape (c, 1, 1), for `normalize`; they must be the same numbers until `clear` is called."""
        key = (device, dtype)
        if self._held.get("statistics", (None,))[0] != key:
            tensors = tuple(torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1) for values in (mean, std))
            self._held["statistics"] = (key, tensors)
        found: tuple[Tensor, Tensor] = self._held["statistics"][1]
        return found

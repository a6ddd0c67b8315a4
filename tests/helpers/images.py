"""Tiny images written into folders, and the data modules that read them or known data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from noisescale.data import DigitsData, ImageFolderData, TorchvisionData

COMMON: dict[str, Any] = {
    "subset_size": None,
    "val_fraction": 0.1,
    "augment": "none",
    "num_workers": 0,
    "eval_batch_size": 1000,
    "seed": 0,
    "in_memory": "auto",
    "memory_limit_gb": 4,
}
"""The values of conf/data/_common.yaml, but without workers."""


def digits(**changes: Any) -> DigitsData:
    return DigitsData(**{**COMMON, **changes})


def folder(root: Path | str | None, **changes: Any) -> ImageFolderData:
    return ImageFolderData(**{**COMMON, "root": root, "image_size": None, "cache": False, **changes})


def known(name: str, root: Path | str, **changes: Any) -> TorchvisionData:
    return TorchvisionData(**{**COMMON, "name": name, "root": root, "download": False, **changes})


def write_images(
    root: Path,
    *,
    size: tuple[int, int] = (8, 6),
    mode: str = "RGB",
    kind: str = "png",
    n: int = 4,
    classes: tuple[str, ...] = ("cat", "dog"),
) -> None:
    """Write `n` training and 2 test images of each class, with random pixels; size is (width, height)."""
    rng = np.random.default_rng(0)
    for split, count in (("train", n), ("test", 2)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / split / name / f"{i}.{kind}")


def images_of(data: ImageFolderData) -> tuple[Tensor, Tensor]:
    """All training and all test images, in the order of the data set."""
    data.setup()
    train: Any = data.train_dataloader().dataset
    test: Any = data.test_dataloader().dataset
    return train.take(torch.arange(len(train)))[0], test.take(torch.arange(len(test)))[0]


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def kept(root: Path) -> list[Path]:
    """The files in the cache of decoded images."""
    return sorted((root / ".noisescale").iterdir())


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)

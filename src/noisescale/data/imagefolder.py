"""Any folder of images: train/<class>/ and test/<class>/, decoded once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from noisescale.data.datamodule import ImageDataModule
from noisescale.data.decoding import ImageFileError, NotGreyError, OtherSizeError, decode_images, image_header
from noisescale.data.images import Examples, Split
from noisescale.errors import ConfigError, check_count, check_number

__all__ = ["ImageFolderData"]

SPLITS: tuple[Split, Split] = ("train", "test")
LAYOUT = "data.root needs train/<class>/ and test/<class>/ with images"
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolderData(ImageDataModule):
    """Images in `root`/train/<class>/ and `root`/test/<class>/, at any depth below the class; classes in sorted order.

    Images are 8-bit; all become RGB unless all training images are grey. Transparency and EXIF orientation are ignored.

    Args:
        root: the folder, relative to the current directory.
        image_size: pixels: the shorter side is resized to it (bilinear), then the centre is cropped to a square.
            None: the images are taken as they are and must all have one size.
        memory_limit_gb: 10^9 bytes that the decoded training (sub)set and test set may take together.
        common: as for `ImageDataModule`.
    """

    def __init__(self, *, root: str | None, image_size: int | None, memory_limit_gb: float, **common: Any) -> None:
        super().__init__(**common)
        if not isinstance(root, (str, Path)) or not str(root):
            value = "null" if root is None else root
            raise ConfigError("root", value, "imagefolder needs a folder with train/ and test/", "set data.root")
        if image_size is not None:
            check_count("image_size", image_size, unit="pixels", remedy="null takes the images as they are")
        check_number("memory_limit_gb", memory_limit_gb, above=0, unit="GB")
        self.root = Path(root)
        self.resize_to = image_size
        self.memory_limit_gb = memory_limit_gb
        self._listed: dict[Split, dict[str, list[Path]]] | None = None

    def train_examples(self) -> int:
        return _count(self._files()["train"])

    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        by_class = self._files()[split]
        names = tuple(by_class)
        labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(by_class[name]) for name in names]))
        files = [file for name in names for file in by_class[name]]
        chosen = select(labels)
        return Examples(self._decode(split, [files[i] for i in chosen.tolist()]), labels[chosen], names)

    def _decode(self, split: Split, files: list[Path]) -> Tensor:
        try:
            if split == "test":  # setup() has read the training images, which decide
                return self._decode_as(split, files, self.in_channels, self.image_size)
            grey, size = image_header(files[0])
            if self.resize_to is not None:
                size = (self.resize_to, self.resize_to)
            # Opening every file for its mode alone would cost a large part of decoding it: assume that a set whose first
            # image is grey is all grey, and start again in RGB at the first image that is not.
            try:
                return self._decode_as(split, files, 1 if grey else 3, size)
            except NotGreyError:
                return self._decode_as(split, files, 3, size)
        except OtherSizeError as error:
            problem = f"{error.file} {error.problem} like the first training image"
            raise ConfigError("image_size", "null", problem, "set data.image_size to resize all") from None
        except NotGreyError as error:
            problem = f"{error.file} {error.problem}, all training images are grey"
            raise ConfigError("root", self.root, problem, "make the images all grey or all colour") from None
        except ImageFileError as error:
            problem = f"{error.file} cannot be decoded ({error.problem})"
            raise ConfigError("root", self.root, problem, "repair or remove the file") from None

    def _decode_as(self, split: Split, files: list[Path], channels: int, size: tuple[int, int]) -> Tensor:
        if split == "train":
            self._check_memory(len(files), _count(self._files()["test"]), (channels, *size))
        return decode_images(files, channels=channels, size=size, resize=self.resize_to is not None, title=f"decoding {split} images")

    def _check_memory(self, num_train: int, num_test: int, shape: tuple[int, int, int]) -> None:
        needed = (num_train + num_test) * math.prod(shape) / 1e9
        if needed <= self.memory_limit_gb:
            return
        sizes = " x ".join(map(str, shape))
        raise ConfigError(
            "memory_limit_gb",
            self.memory_limit_gb,
            f"{num_train} training and {num_test} test images of {sizes} need {needed:.3g} GB decoded",
            "lower data.image_size or data.subset_size, or raise data.memory_limit_gb",
        )

    def _files(self) -> dict[Split, dict[str, list[Path]]]:
        # Listed once, so that the sizes announced are the sizes read.
        if self._listed is None:
            self._listed = _list_images(self.root)
        return self._listed


def _count(by_class: dict[str, list[Path]]) -> int:
    return sum(map(len, by_class.values()))


def _list_images(root: Path) -> dict[Split, dict[str, list[Path]]]:
    """Split -> class -> image files, classes and files sorted.

    Raises:
        ConfigError: `root`, a split, the classes or the images of a class are missing, or the splits have other classes.
    """

    def refuse(problem: str, remedy: str = LAYOUT) -> NoReturn:
        raise ConfigError("root", root, problem, remedy)

    folder = root.expanduser()
    if not folder.is_dir():
        refuse("no such folder")
    listed: dict[Split, dict[str, list[Path]]] = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            refuse(f"no folder {root / split}")
        names = sorted(e.name for e in os.scandir(folder / split) if e.is_dir() and not e.name.startswith("."))
        if not names:
            refuse(f"no class folders in {root / split}")
        listed[split] = {name: _images_below(folder / split / name) for name in names}
    for one, other in (SPLITS, SPLITS[::-1]):
        alone = [str(root / one / name) for name in listed[one] if name not in listed[other]]
        if alone:
            shown = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
            refuse(f"train and test must have the same classes: {shown} not in {other}")
    for split in SPLITS:
        for name, files in listed[split].items():
            if not files:
                refuse(f"no images in {root / split / name}", f"images end in {', '.join(sorted(SUFFIXES))}")
    return listed


def _images_below(folder: Path) -> list[Path]:
    found = (
        os.path.join(path, name)
        for path, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
    )
    return [Path(file) for file in sorted(found)]

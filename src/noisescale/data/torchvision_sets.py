"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision stores and downloads them."""

from __future__ import annotations

import http.client
import os
import pickle
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisescale.data.datamodule import ImageDataModule
from noisescale.data.images import Examples, Split
from noisescale.errors import ConfigError, check_choice
from noisescale.plans.dataset_size import TRAINING_EXAMPLES

__all__ = ["TorchvisionData"]


@dataclass(frozen=True)
class _Known:
    """A set that torchvision reads: its class there, its files below `root`, and how many images it has."""

    torchvision_name: str
    folder: str
    files: tuple[str, ...]
    sizes: dict[Split, int]


_IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

KNOWN = {
    "mnist": _Known("MNIST", "MNIST/raw", _IDX, {"train": TRAINING_EXAMPLES["mnist"], "test": 10_000}),
    "fashion_mnist": _Known("FashionMNIST", "FashionMNIST/raw", _IDX, {"train": TRAINING_EXAMPLES["fashion_mnist"], "test": 10_000}),
    "cifar10": _Known("CIFAR10", "cifar-10-batches-py", _BATCHES, {"train": TRAINING_EXAMPLES["cifar10"], "test": 10_000}),
    "cifar100": _Known("CIFAR100", "cifar-100-python", ("train", "test", "meta"), {"train": TRAINING_EXAMPLES["cifar100"], "test": 10_000}),
}

# What torchvision raises for a missing or damaged file, and for a failed download, extraction or write.
_READ_ERRORS = (RuntimeError, OSError, ValueError, AssertionError, EOFError, KeyError, pickle.UnpicklingError)
_DOWNLOAD_ERRORS = (*_READ_ERRORS, http.client.HTTPException, tarfile.TarError, zlib.error)


class TorchvisionData(ImageDataModule):
    """One of torchvision's data sets, read from `root`, after downloading it if it is missing.

    Args:
        name: `mnist`, `fashion_mnist` (60 000 grey 28 x 28), `cifar10` or `cifar100` (50 000 RGB 32 x 32).
        root: the folder that holds the set in torchvision's layout (`MNIST/raw/`, `cifar-10-batches-py/`, ...), relative
            to the current directory. Nothing is written to it if the files are there.
        download: whether a missing data set is downloaded; `root` is then created if necessary.
        common: the arguments of `ImageDataModule`.
    """

    free_on_resume = ImageDataModule.free_on_resume | {"root", "download"}

    def __init__(self, *, name: str, root: str, download: bool, **common: Any) -> None:
        super().__init__(**common)
        check_choice("name", name, KNOWN)
        if not isinstance(download, bool):
            raise ConfigError("download", download, "must be true or false")
        if not isinstance(root, (str, Path)) or not str(root):
            raise ConfigError("root", "null" if root is None else root, "must name a folder")
        self.dataset_name = name
        self.root = Path(root)
        self.download = download

    def train_examples(self) -> int:
        return KNOWN[self.dataset_name].sizes["train"]

    def prepare_data(self) -> None:
        """Download the data set if it is missing and `download` is True; Lightning calls this in one process only."""
        self._open("train")

    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        images, labels, names = self._open(split)
        sizes = KNOWN[self.dataset_name].sizes
        if not images.shape[0] == labels.numel() == sizes[split]:
            found = f"{images.shape[0]} {split} images and {labels.numel()} labels, but {self.dataset_name} has {sizes[split]}"
            raise ConfigError("root", self.root, f"{self._where()} holds {found}", self._remedy())
        chosen = select(labels)
        if split == "train":
            self._resident = self.fits(len(chosen), sizes["test"], tuple(images.shape[1:]))
        return Examples(images, labels[chosen], names, chosen, self._resident)

    def _open(self, split: Split) -> _Set:
        root = self.root.expanduser()
        stamp = self._stamp()
        try:
            return _read(self.dataset_name, root, split) if stamp is None else _read_once(self.dataset_name, root, split, stamp)
        except _READ_ERRORS as error:
            problem = error
        if self.download:
            try:
                return _read(self.dataset_name, root, split, download=True)
            except _DOWNLOAD_ERRORS as error:
                raise self._refusal(problem, error) from None
        raise self._refusal(problem) from None

    def _stamp(self) -> tuple[tuple[int, int], ...] | None:
        """The sizes and modification times of all files; None if one is missing."""
        known = KNOWN[self.dataset_name]
        try:
            found = [os.stat(self.root.expanduser() / known.folder / file) for file in known.files]
        except OSError:
            return None
        return tuple((each.st_size, each.st_mtime_ns) for each in found)

    def _where(self) -> str:
        return str(self.root / KNOWN[self.dataset_name].folder)

    def _remedy(self) -> str:
        return f"set data.root to the folder that holds {KNOWN[self.dataset_name].folder}"

    def _refusal(self, problem: Exception, failed: Exception | None = None) -> ConfigError:
        """The error that names what is missing and where, or else what torchvision says, and then why the download failed."""
        name, files = self.dataset_name, KNOWN[self.dataset_name].files
        folder = self.root.expanduser() / KNOWN[name].folder
        missing = [file for file in files if not (folder / file).is_file()]
        if not missing:
            words = f"{name} in {self._where()} cannot be read ({_one_line(problem)})"
            return ConfigError("root", self.root, words, "delete the damaged files, then let data.download=true fetch them")
        if not self.root.expanduser().is_dir():
            words = f"{name} is not there: no such folder"
        elif len(missing) == len(files):
            words = f"{name} is not there: nothing of it in {self._where()}"
        else:
            words = f"{name} is not there: no {', '.join(missing)} in {self._where()}"
        if failed is None:
            return ConfigError("root", self.root, words, f"{self._remedy()}, or let data.download=true fetch it")
        return ConfigError("root", self.root, f"{words}, and the download failed ({_one_line(failed)})", self._remedy())


_Set = tuple[Tensor, Tensor, tuple[str, ...]]


def _read(name: str, root: Path, split: Split, download: bool = False) -> _Set:
    """All images, uint8 (n, c, h, w), and labels, int64 (n,), of one split, and the names of the classes."""
    from torchvision import datasets  # here, because the import takes seconds that the other data sets do not need

    with warnings.catch_warnings():
        # The CIFAR pickles were written by an old NumPy, and NumPy 2.4.0 warns about that whenever it reads one.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        with redirect_stderr(StringIO()) if download and not sys.stderr.isatty() else nullcontext():  # its bar is for terminals
            source = getattr(datasets, KNOWN[name].torchvision_name)(root, train=split == "train", download=download)
    images = torch.as_tensor(source.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(source.targets, dtype=torch.int64), tuple(source.classes)


@lru_cache(maxsize=2)  # the two splits of one data set, at most 0.2 GB, because the runs of a sweep share a process
def _read_once(name: str, root: Path, split: Split, stamp: tuple[tuple[int, int], ...]) -> _Set:
    """`_read`, cached for as long as `stamp` does not change."""
    return _read(name, root, split)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."

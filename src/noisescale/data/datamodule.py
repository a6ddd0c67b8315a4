"""The LightningDataModule: from a source of uint8 images to training batches on the device."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

from noisescale.data.augment import crop_flip, crop_flip_table
from noisescale.data.images import Batch, Examples, ImageDataset, Split, as_is, channel_sums, normalize, statistics_of_sums
from noisescale.data.splits import check_split_options, split_train_val
from noisescale.errors import ConfigError, check_choice, check_number
from noisescale.plans.checks import check_processes
from noisescale.plans.dataset_size import refuse_stand_in_size, split_sizes

__all__ = ["ImageDataModule"]


class ImageDataModule(pl.LightningDataModule, ABC):
    """uint8 images, in memory as one tensor or streamed; augmented and normalised on the device, once per batch.

    A source overrides `train_examples` and `read`. The loaders return uint8: training batches are (images, labels, indices), where
    `indices` are positions in the training set; evaluation batches are (images, labels). `on_after_batch_transfer` turns either
    into (x, y), where x is floating point with mean 0 and standard deviation 1 per channel over the training set.

    Args:
        subset_size: how many training examples to use, taken from the start of a class-balanced order that `seed` determines, so
            that a subset is a prefix of every larger subset of the same seed. None: all.
        val_fraction: in [0, 1), the share of the (sub)set that is held out for validation, class-balanced, unless the source has a
            validation set of its own. 0: no validation.
        augment: `none`, or `crop_flip`: random crop after zero padding by an eighth of the image, and random horizontal flip,
            as a function of (seed, epoch, example) alone.
        balanced: whether a training pass is N draws with replacement in which all classes are equally likely, so that the images of a rare
            class come several times. Images that come twice in an epoch are augmented alike.
        in_memory: `auto`, True or False. Images in memory are kept on the training device, where fetching a batch is a single
            gather, unless workers fetch the batches; otherwise the images of each batch are copied there. auto: in memory if they
            fit `memory_limit_gb`. True: refused if they do not fit. The batches are the same, bit for bit.
        memory_limit_gb: the most memory for the training (sub)set and the test set together, in 10^9 bytes, at one byte per pixel
            and channel.
        num_workers: processes that fetch batches. None: 0 if the images are in memory, otherwise the cores per device, up to 8.
        eval_batch_size: examples per validation and test batch; does not change the results.
        seed: determines the subset, the validation split and the augmentation.
        batch_size: examples per training batch, if nothing else plans the batches.
        size: N to plan with, instead of the data set's own; `setup` then refuses to run.

    Attributes, after `setup`:
        num_examples: N, the number of examples that one training pass draws from.
        num_classes, class_names: of the labels.
        in_channels, image_size: c, and (h, w) in pixels.
        input_shape, num_outputs: (c, h, w), and the number of classes, for a network.
        mean, std: per channel, in units of [0, 1], over the N training examples; std is at least 1/255.

    Raises:
        ConfigError: a value is out of range; from `train_size` and `setup`, also if the data are missing or unusable.
    """

    targets: ClassVar[str] = "classes"
    """What the targets are, for the task: whole numbers from 0 to num_outputs - 1."""

    AUGMENTATIONS: ClassVar[tuple[str, ...]] = ("none", "crop_flip")

    free_on_resume: ClassVar[frozenset[str]] = frozenset(
        {"size", "num_workers", "eval_batch_size", "in_memory", "memory_limit_gb", "batch_size"}
    )
    """Arguments that a resumed run may change, because they decide how examples are fetched, not which examples."""

    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(
        self,
        *,
        subset_size: int | None,
        val_fraction: float,
        augment: str,
        num_workers: int | None,
        eval_batch_size: int,
        seed: int,
        in_memory: bool | str,
        memory_limit_gb: float,
        balanced: bool = False,
        batch_size: int = 64,
        size: int | None = None,
    ) -> None:
        super().__init__()
        check_split_options(
            subset_size=subset_size,
            val_fraction=val_fraction,
            eval_batch_size=eval_batch_size,
            seed=seed,
            batch_size=batch_size,
            size=size,
        )
        check_choice("augment", augment, self.AUGMENTATIONS)
        if num_workers is not None:
            check_processes("num_workers", num_workers, at_least=0, unit="processes")
        if not isinstance(in_memory, bool) and in_memory != "auto":
            raise ConfigError("in_memory", in_memory, "must be auto, true or false")
        if not isinstance(balanced, bool):
            raise ConfigError("balanced", balanced, "must be true or false")
        check_number("memory_limit_gb", memory_limit_gb, above=0, unit="GB")
        self.subset_size = subset_size
        self.val_fraction = val_fraction
        self.augment = augment
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.balanced = balanced
        self.in_memory = in_memory
        self.memory_limit_gb = memory_limit_gb
        self.batch_size = batch_size
        self.size = size
        self._train: ImageDataset | None = None
        self._val: ImageDataset | None = None
        self._test: ImageDataset | None = None
        self._resident = False
        self._limits: dict[str, float] = {}  # the trainer's own limit_val_batches and limit_test_batches, where `setup` has set them to 0
        self._on_device: dict[str, Any] = {}  # copies, made again when the epoch or the device changes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.in_channels, *self.image_size)

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    @abstractmethod
    def train_examples(self) -> int:
        """The number of training images in the source, before any subset or split, found without decoding them.

        Raises:
            ConfigError: the source is missing or unusable.
        """

    def val_examples(self) -> int | None:
        """The number of images of the source's own validation set, which is used whole; None: `val_fraction` of the training images."""
        return None

    def has_test(self) -> bool:
        """Whether the source has a test set. If not, `Trainer.test` does nothing."""
        return True

    @abstractmethod
    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        """The selected images of one split.

        Args:
            split: `train`, `test`, or `val` if `val_examples` is not None.
            select: given the labels of the whole split, int64 (n,), returns the positions of the images to deliver, in order, so
                that a source needs to decode only those.

        Raises:
            ConfigError: the source is missing or unusable.
        """

    def fits(self, num_train: int, num_test: int, shape: tuple[int, ...], smaller: str = "data.subset_size") -> bool:
        """Whether this many images of `shape` belong in memory, according to `in_memory` and `memory_limit_gb`. For sources to call.

        Raises:
            ConfigError: `in_memory` is True and they do not fit; `smaller` names the keys that make them fewer or smaller.
        """
        needed = (num_train + num_test) * math.prod(shape) / 1e9
        if self.in_memory is False or needed <= self.memory_limit_gb:
            return self.in_memory is not False
        if self.in_memory == "auto":
            return False
        sizes = " x ".join(map(str, shape))
        raise ConfigError(
            "memory_limit_gb",
            self.memory_limit_gb,
            f"{num_train} training and {num_test} test images of {sizes} need {needed:.3g} GB decoded",
            f"lower {smaller}, raise data.memory_limit_gb, or let data.in_memory=auto decide",
        )

    def explain(self, error: BaseException) -> ConfigError | None:
        """The `ConfigError` for an error that was raised while batches were fetched; None if the arguments have nothing to do with it."""
        return None

    def train_size(self) -> int:
        """N = `num_examples`, before anything is decoded.

        Raises:
            ConfigError: `subset_size` or `val_fraction` does not fit the data, or the data are missing.
        """
        if self.size is not None:
            return self.size
        return split_sizes(self.train_examples(), subset_size=self.subset_size, val_fraction=self._held_out())[0]

    def _held_out(self) -> float:
        """The share of the training images that is held out for validation."""
        return self.val_fraction if self.val_examples() is None else 0.0

    def setup(self, stage: str | None = None) -> None:
        """Read the training set (every stage needs its statistics) and, for stage `test` or None, the test set; each only once.

        Raises:
            ConfigError: the data are missing or unusable, or do not fit `subset_size` or `val_fraction`.
        """
        refuse_stand_in_size(self.size)
        if self._train is None:
            self._set_up_train()
        if stage in (None, "test") and self._test is None and self.has_test():
            self._test = self._whole("test")
        # The only way to skip validation or test without a warning from Lightning: it warns about a missing or an empty loader.
        for name, absent in (("limit_val_batches", self.val_fraction == 0), ("limit_test_batches", not self.has_test())):
            if self.trainer is not None and absent and name not in self._limits:
                self._limits[name] = getattr(self.trainer, name)
                setattr(self.trainer, name, 0)

    def teardown(self, stage: str | None = None) -> None:
        """Restore the trainer's own limits, if `setup` set them to 0 because there are no validation or no test examples."""
        while self.trainer is not None and self._limits:
            setattr(self.trainer, *self._limits.popitem())

    def _set_up_train(self) -> None:
        n = self.train_size()
        found = self.read("train", self._select_train)
        self.num_examples = n
        self.class_names = found.class_names
        self.num_classes = len(found.class_names)
        _, self.in_channels, *size = found.images.shape
        self.image_size = (size[0], size[1])
        self._train = found.part(0, n, with_indices=True)
        self._val = found.part(n, found.labels.numel(), with_indices=False) if self.val_examples() is None else self._whole("val")
        self.mean, self.std = statistics_of_sums(_sums(self._train, found.sums))
        self._resident = found.resident
        self._on_device.clear()

    def _whole(self, split: Split) -> ImageDataset:
        found = self.read(split, lambda labels: torch.arange(labels.numel()))
        return found.part(0, found.labels.numel(), with_indices=False)

    def _select_train(self, labels: Tensor) -> Tensor:
        """The positions of the training examples, followed by those of the validation examples."""
        if labels.numel() != self.train_examples():
            found = f"`read` found {labels.numel()} training images, but `train_examples` returned {self.train_examples()}"
            raise RuntimeError(f"{type(self).__name__}: {found}")
        return torch.cat(split_train_val(labels, subset_size=self.subset_size, val_fraction=self._held_out(), seed=self.seed))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches (images uint8, labels, indices), drawn with class balance if `balanced`. A plan may replace the shuffling."""
        return self._loader("train", self._train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches (images uint8, labels); an empty list if `val_fraction` is 0, so that a trainer does not validate."""
        return self._loader("val", self._val, self.eval_batch_size) if self.val_fraction > 0 else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches (images uint8, labels) of the test set; an empty list if there is none, so that a trainer does not test."""
        if not self.has_test():
            return []  # type: ignore[return-value]
        return self._loader("test", self._test, self.eval_batch_size)

    def _loader(self, name: str, dataset: ImageDataset | None, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        if dataset is None:
            raise RuntimeError(f"{type(self).__name__}: call setup() before asking for a loader")
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        num_workers = self._workers(dataset)
        sampler = _balancing_sampler(dataset.labels) if shuffle and self.balanced else None
        moved = self._resident and num_workers == 0 and device.type != "cpu"
        return DataLoader(
            self._on(device, name, dataset) if moved else dataset,
            batch_size=batch_size,
            shuffle=shuffle and sampler is None,
            sampler=sampler,
            collate_fn=as_is,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            # Not for evaluation: it gains nothing, and Lightning warns about pinned memory with persistent workers and reloaded loaders.
            pin_memory=shuffle and not moved and device.type == "cuda",
        )

    def _workers(self, dataset: ImageDataset) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if isinstance(dataset.images, Tensor):
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = 1 if self.trainer is None else self.trainer.num_devices
        return max(1, min(8, cores // devices))

    def _on(self, device: torch.device, name: str, dataset: ImageDataset) -> ImageDataset:
        held = self._on_device.get(name, (None, None))
        if held[0] != device:
            held = self._on_device[name] = (device, dataset.to(device))
        found: ImageDataset = held[1]
        return found

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """`batch` on `device`."""
        if batch[0].device == device:  # a shortcut: Lightning would first search the batch for tensors
            return batch
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """(images, labels[, indices]) -> (x, y) on the device: augmented during training, then normalised.

        x has the dtype of the trainer's module, or float32 without a trainer. The augmentation of an example depends only on
        (seed, trainer.current_epoch, its index), and so not on batches, workers, devices or a resume.
        """
        images, labels = batch[0], batch[1]
        trainer = self.trainer
        if self.augment == "crop_flip" and trainer is not None and trainer.training:
            images = crop_flip(images, self._table(trainer.current_epoch, images.device).index_select(0, batch[2]))
        dtype = torch.float32 if trainer is None else trainer.lightning_module.dtype
        assert isinstance(dtype, torch.dtype)
        mean, std = self._statistics(images.device, torch.promote_types(dtype, torch.float32))
        return normalize(images, mean, std, dtype), labels

    def _table(self, epoch: int, device: torch.device) -> Tensor:
        key = (epoch, device)
        if self._on_device.get("table", (None,))[0] != key:
            table = crop_flip_table(seed=self.seed, epoch=epoch, num_examples=self.num_examples, image_size=self.image_size)
            self._on_device["table"] = (key, table.to(device))
        found: Tensor = self._on_device["table"][1]
        return found

    def _statistics(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        key = (device, dtype)
        if self._on_device.get("statistics", (None,))[0] != key:
            mean, std = (torch.tensor(v, dtype=dtype, device=device).view(-1, 1, 1) for v in (self.mean, self.std))
            self._on_device["statistics"] = (key, (mean, std))
        found: tuple[Tensor, Tensor] = self._on_device["statistics"][1]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the copies on a device, which another process makes for itself."""
        return {**self.__dict__, "_on_device": {}}


def _balancing_sampler(labels: Tensor) -> WeightedRandomSampler:
    """N draws with replacement in which all classes are equally likely: the weight of an example is 1 / (the size of its class)."""
    return WeightedRandomSampler((1.0 / labels.bincount().double())[labels].tolist(), len(labels))


def _sums(dataset: ImageDataset, known: Tensor | None) -> Tensor:
    """`channel_sums` of a data set, added up from the sums of each of its `images` if they are known."""
    if known is not None:
        return (known if dataset.rows is None else known.index_select(0, dataset.rows)).sum(0)
    parts = torch.arange(len(dataset)).split(1000)  # in parts, so that the copies stay small
    return torch.stack([channel_sums(dataset.take(part)[0]) for part in parts]).sum(0)

"""The LightningDataModule: from a source of uint8 images to training batches on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from noisescale.data.augment import crop_flip, crop_flip_table
from noisescale.data.images import Batch, Examples, ImageDataset, Split, as_is, channel_statistics, normalize
from noisescale.data.splits import split_train_val
from noisescale.errors import ConfigError, check_choice, check_count, check_number
from noisescale.sizes import split_sizes

__all__ = ["ImageDataModule"]


class ImageDataModule(pl.LightningDataModule, ABC):
    """Images in memory as one uint8 tensor; augmented and normalised on the device, once per batch.

    A source overrides `train_examples` and `read`. Loaders give uint8: training batches (images, labels, indices), where
    `indices` are positions in the training set, evaluation batches (images, labels). `on_after_batch_transfer` makes
    (x, y) of either, x floating with mean 0 and standard deviation 1 per channel over the training set.

    Args:
        subset_size: examples, the first of a class-balanced order given by `seed`: a subset is a prefix of every larger
            subset of the same seed. None: all.
        val_fraction: in [0, 1), the share of the (sub)set that validates instead of training, class-balanced.
        augment: `none`, or `crop_flip`: random crop after zero padding by an eighth of the image, and horizontal flip,
            a function of (seed, epoch, example) alone.
        num_workers: processes that fetch batches; with the data in memory, 0 is almost always the fastest.
        eval_batch_size: examples per validation and test batch; changes no result.
        seed: of the subset, the validation split and the augmentation.
        batch_size: examples per training batch when nothing else plans the batches.
        size: N in place of the data's own, to plan with: nothing can be set up then.

    Attributes, after `setup`:
        num_examples: N, what one pass of training draws from.
        num_classes, class_names: of the labels.
        in_channels, image_size: c and (h, w) in pixels.
        mean, std: per channel, in units of [0, 1], over the N training examples; std is at least 1/255.

    Raises:
        ConfigError: a value out of its range; from `train_size` and `setup`, also data that are missing or unusable.
    """

    AUGMENTATIONS: ClassVar[tuple[str, ...]] = ("none", "crop_flip")

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
        num_workers: int,
        eval_batch_size: int,
        seed: int,
        batch_size: int = 64,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if subset_size is not None:
            check_count("subset_size", subset_size, unit="examples", remedy="null uses all")
        check_number("val_fraction", val_fraction, at_least=0, below=1)
        check_choice("augment", augment, self.AUGMENTATIONS)
        check_count("num_workers", num_workers, at_least=0, unit="processes")
        check_count("eval_batch_size", eval_batch_size, unit="examples")
        check_count("seed", seed, at_least=0)
        check_count("batch_size", batch_size, unit="examples")
        if size is not None:
            check_count("size", size, unit="examples", remedy="null for the data's own")
        self.subset_size = subset_size
        self.val_fraction = val_fraction
        self.augment = augment
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.batch_size = batch_size
        self.size = size
        self._train: ImageDataset | None = None
        self._val: ImageDataset | None = None
        self._test: ImageDataset | None = None
        self._limit_val_batches: float | None = None  # the trainer's own, while `setup` has set it to 0
        self._on_device: dict[str, Any] = {}  # copies, remade when the epoch or the device changes

    @abstractmethod
    def train_examples(self) -> int:
        """Number of training images that the source holds, before any subset or split, without decoding them.

        Raises:
            ConfigError: the source is missing or unusable.
        """

    @abstractmethod
    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        """The selected images of one split.

        Args:
            split: `train` or `test`.
            select: given the labels of the whole split, int64 (n,), returns the positions to deliver, in their order:
                a source that decodes can decode only those.

        Raises:
            ConfigError: the source is missing or unusable.
        """

    def train_size(self) -> int:
        """N = `num_examples`, known before anything is decoded.

        Raises:
            ConfigError: `subset_size` or `val_fraction` does not fit the data, or the data are missing.
        """
        if self.size is not None:
            return self.size
        return split_sizes(self.train_examples(), subset_size=self.subset_size, val_fraction=self.val_fraction)[0]

    def setup(self, stage: str | None = None) -> None:
        """Read the training set (any stage needs its statistics) and, for stage `test` or None, the test set; once each.

        Raises:
            ConfigError: the data are missing or unusable, or do not fit `subset_size`, `val_fraction`.
        """
        if self.size is not None:
            raise ConfigError("size", self.size, "stands in place of data, for plans", "leave it at null to read them")
        if self._train is None:
            self._set_up_train()
        if stage in (None, "test") and self._test is None:
            found = self.read("test", lambda labels: torch.arange(labels.numel()))
            self._test = ImageDataset(found.images, found.labels, with_indices=False)
        if self.trainer is not None and self.val_fraction == 0 and self._limit_val_batches is None:
            # The one way to skip validation in which Lightning does not warn: of a missing or empty loader it does.
            self._limit_val_batches, self.trainer.limit_val_batches = self.trainer.limit_val_batches, 0

    def teardown(self, stage: str | None = None) -> None:
        """Give the trainer its own `limit_val_batches` back, if `setup` set it to 0 for want of validation examples."""
        if self.trainer is not None and self._limit_val_batches is not None:
            self.trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None

    def _set_up_train(self) -> None:
        n = self.train_size()
        found = self.read("train", self._select_train)
        images = found.images[:n]  # here and below views, not copies: training and validation share one tensor
        self.num_examples = n
        self.class_names = found.class_names
        self.num_classes = len(found.class_names)
        self.in_channels = images.shape[1]
        self.image_size = (images.shape[2], images.shape[3])
        self.mean, self.std = channel_statistics(images)
        self._on_device.clear()
        self._train = ImageDataset(images, found.labels[:n], with_indices=True)
        self._val = ImageDataset(found.images[n:], found.labels[n:], with_indices=False)

    def _select_train(self, labels: Tensor) -> Tensor:
        """Positions of the training examples, followed by those of the validation examples."""
        if labels.numel() != self.train_examples():
            raise RuntimeError(f"{type(self).__name__}: {labels.numel()} training images, announced {self.train_examples()}")
        return torch.cat(split_train_val(labels, subset_size=self.subset_size, val_fraction=self.val_fraction, seed=self.seed))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches (images uint8, labels, indices). A planned batch sampler may take the place of the shuffle."""
        return self._loader(self._train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches (images uint8, labels); an empty list if `val_fraction` is 0, and a trainer then validates nothing."""
        return self._loader(self._val, self.eval_batch_size) if self.val_fraction > 0 else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches (images uint8, labels) of the test set."""
        return self._loader(self._test, self.eval_batch_size)

    def _loader(self, dataset: ImageDataset | None, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        if dataset is None:
            raise RuntimeError(f"{type(self).__name__}: call setup() before asking for a loader")
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            collate_fn=as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # Evaluation gains nothing: and Lightning warns of pinned memory with persistent workers and reloaded loaders.
            pin_memory=shuffle and self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """(images, labels[, indices]) -> (x, y) on the device: augmented if the trainer trains, then normalised.

        x is in the dtype of the trainer's module, float32 without a trainer. An example's augmentation depends on
        (seed, trainer.current_epoch, its index) only, hence not on batches, workers, devices or a resume.
        """
        images, labels = batch[0], batch[1]
        trainer = self.trainer
        if self.augment == "crop_flip" and trainer is not None and trainer.training:
            images = crop_flip(images, self._table(trainer.current_epoch, images.device)[batch[2]])
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
        """Everything but what was copied to a device, which another process makes for itself."""
        return {**self.__dict__, "_on_device": {}}

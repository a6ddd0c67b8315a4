"""The LightningDataModule: from a source of uint8 images to training batches on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from noisescale.data.augment import crop_flip
from noisescale.data.device_copies import DeviceCopies
from noisescale.data.image_loader import image_loader, workers_for
from noisescale.data.images import Batch, Examples, ImageDataset, Split, normalize, statistics_of_sums, sums_of
from noisescale.data.memory_limit import check_memory_options, fits_memory
from noisescale.data.splits import check_split_options, split_train_val
from noisescale.errors import ConfigError, check_choice
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
        if not isinstance(balanced, bool):
            raise ConfigError("balanced", balanced, "must be true or false")
        check_memory_options(in_memory, memory_limit_gb)
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
        self._copies = DeviceCopies()

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
        options: dict[str, Any] = {"in_memory": self.in_memory, "memory_limit_gb": self.memory_limit_gb}
        return fits_memory(num_train, num_test, shape, **options, smaller=smaller)

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
        self.mean, self.std = statistics_of_sums(sums_of(self._train, found.sums))
        self._resident = found.resident
        self._copies.clear()

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
        devices = 1 if self.trainer is None else self.trainer.num_devices
        num_workers = workers_for(dataset, devices) if self.num_workers is None else self.num_workers
        moved = self._resident and num_workers == 0 and device.type != "cpu"
        return image_loader(
            self._copies.dataset(name, dataset, device) if moved else dataset,
            batch_size,
            num_workers,
            shuffle=shuffle,
            balanced=self.balanced,
            # Not for evaluation: it gains nothing, and Lightning warns about pinned memory with persistent workers and reloaded loaders.
            pin_memory=shuffle and not moved and device.type == "cuda",
        )

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
            images = crop_flip(images, self._crops(trainer.current_epoch, images.device).index_select(0, batch[2]))
        dtype = torch.float32 if trainer is None else trainer.lightning_module.dtype
        assert isinstance(dtype, torch.dtype)
        mean, std = self._copies.statistics(self.mean, self.std, images.device, torch.promote_types(dtype, torch.float32))
        return normalize(images, mean, std, dtype), labels

    def _crops(self, epoch: int, device: torch.device) -> Tensor:
        return self._copies.crops(epoch, device, seed=self.seed, num_examples=self.num_examples, image_size=self.image_size)

"""Seconds per training example, CIFAR-10-sized, random crop and flip: our datamodule against torchvision on PIL images in workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Comparison, Wanted
from benchmarks.steps import InMemory, random_images

__all__ = ["OURS", "WORKERS", "OneByOne", "Ours", "Pictures", "comparisons", "pil_transform"]

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)

OURS, WORKERS = "ours, no workers", "torchvision + PIL, 2 workers"


class Pictures(Dataset[tuple[Any, int]]):
    """Images and labels as torchvision.datasets.CIFAR10 keeps them: PIL images made one by one, then transformed."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Any) -> None:
        self.images, self.labels, self.transform = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        image = self.images[index]
        picture = Image.fromarray(image if image.shape[2] > 1 else image[:, :, 0])
        return self.transform(picture), self.labels[index]


def pil_transform() -> Any:
    """What every CIFAR-10 script has."""
    from torchvision import transforms as T

    return T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Ours against what every CIFAR-10 script has."""
    images, labels = random_images(1000 if quick else 50_000, (3, 32, 32))
    fewer = len(labels) if quick else 10_000  # enough for the slow one
    workers = OneByOne(Pictures(images[:fewer], labels[:fewer], pil_transform()), workers=2)
    yield Comparison(
        f"data path, B {BATCH}, crop and flip",
        {OURS: Ours(images, labels), WORKERS: workers},
        [Wanted(WORKERS, OURS, at_least=10)],
        per="example",
        examples=1,
        once_before=True,  # starts the workers
    )


class Ours:
    """An epoch of our datamodule's batches, as a trainer gets them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.data = InMemory(images, labels, BATCH, augment="crop_flip")
        self.data.setup()
        self.trainer = _trainer()
        self.data.trainer = self.trainer

    def __call__(self) -> float:
        data, n = self.data, 0
        self.trainer.current_epoch += 1
        started = time.perf_counter()
        for batch in data.train_dataloader():
            x, _ = data.on_after_batch_transfer(batch, 0)
            n += len(x)
        return (time.perf_counter() - started) / n


def _trainer() -> Any:
    """What the datamodule asks a trainer for."""
    module, strategy = SimpleNamespace(dtype=torch.float32), SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(training=True, current_epoch=0, lightning_module=module, strategy=strategy)


class OneByOne:
    """An epoch of a DataLoader's batches; its workers live on from one epoch to the next."""

    def __init__(self, dataset: Dataset[Any], workers: int) -> None:
        self.loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )

    def __call__(self) -> float:
        n, started = 0, time.perf_counter()
        for x, _ in self.loader:
            n += len(x)
        return (time.perf_counter() - started) / n

"""Seconds per training example of CIFAR-10's size, with random crop and flip: our datamodule, and torchvision on PIL images in workers."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.contenders import InMemory, random_images
from benchmarks.measure import Comparison, Wanted
from noisescale.data import crop_flip, crop_flip_table, normalize

__all__ = ["OURS", "WORKERS", "OneByOne", "Ours", "Pictures", "comparisons", "pil_transform"]

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)

OURS, WORKERS = "ours, no workers", "torchvision + PIL, 2 workers"
AUGMENTED, V2, KORNIA = "ours", "torchvision v2, image by image", "kornia"


class Pictures(Dataset[tuple[Any, int]]):
    """Images and labels as in torchvision.datasets.CIFAR10: PIL images are made one by one, then transformed."""

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
    """The transform of every CIFAR-10 script."""
    from torchvision import transforms as T

    return T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Our datamodule and the loader of every CIFAR-10 script; then the augmentation alone, ours and that of libraries."""
    images, labels = random_images(1000 if quick else 20_000, (3, 32, 32))
    workers = OneByOne(Pictures(images, labels, pil_transform()), workers=2)
    yield Comparison(
        f"data path, B {BATCH}, crop and flip",
        {OURS: Ours(images, labels), WORKERS: workers},
        [Wanted(WORKERS, OURS, at_least=10)],
        per="example",
        examples=1,
        once_before=True,  # starts the workers
    )
    if not quick:
        yield augmentations(images)


def augmentations(images: Tensor) -> Comparison:
    """Random crop, flip and normalisation of one batch in memory, with our functions and with libraries.

    The libraries' random choices cannot be a function of (seed, pass, example): they come from the global generator, in the order of the
    calls. torchvision makes one choice for a whole batch, so different choices per example need a loop; kornia makes them per example.
    """
    batch = images[:BATCH]
    contenders = {
        AUGMENTED: _ours(batch),
        "torchvision v2, one choice for all": _torchvision(batch, one_by_one=False),
        V2: _torchvision(batch, one_by_one=True),
    }
    if importlib.util.find_spec("kornia") is not None:
        contenders[KORNIA] = _kornia(batch)
    names = [name for name in contenders if name != AUGMENTED]
    return Comparison(
        f"crop, flip and normalise, B {BATCH}",
        {name: _timed(work) for name, work in contenders.items()},
        [Wanted(name, AUGMENTED) for name in names],
        per="example",
        examples=1,
        once_before=True,
    )


def _timed(work: Callable[[], Tensor], repeats: int = 100) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - started) / (repeats * BATCH)

    return seconds


def _ours(batch: Tensor) -> Callable[[], Tensor]:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))

    def augment() -> Tensor:
        # One table per batch here; a run makes only one per epoch.
        table = crop_flip_table(seed=0, epoch=0, num_examples=BATCH, image_size=(32, 32))
        return normalize(crop_flip(batch, table), mean, std, torch.float32)

    return augment


def _torchvision(batch: Tensor, one_by_one: bool) -> Callable[[], Tensor]:
    from torchvision.transforms import v2

    steps = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    transform: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return (lambda: torch.stack([transform(image) for image in batch])) if one_by_one else (lambda: transform(batch))


def _kornia(batch: Tensor) -> Callable[[], Tensor]:
    augmentation: Any = importlib.import_module("kornia.augmentation")
    crop = augmentation.RandomCrop((32, 32), padding=4, cropping_mode="slice")
    steps = torch.nn.Sequential(crop, augmentation.RandomHorizontalFlip(), augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)))

    def augment() -> Tensor:
        found: Tensor = steps(batch.to(torch.float32) / 255)
        return found

    return augment


class Ours:
    """One epoch of our datamodule's batches, as a trainer receives them."""

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
    """A stand-in with the attributes of a trainer that the datamodule reads."""
    module, strategy = SimpleNamespace(dtype=torch.float32), SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(training=True, current_epoch=0, lightning_module=module, strategy=strategy)


class OneByOne:
    """One epoch of a DataLoader's batches; its workers persist from one epoch to the next."""

    def __init__(self, dataset: Dataset[Any], workers: int) -> None:
        self.loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )

    def __call__(self) -> float:
        n, started = 0, time.perf_counter()
        for x, _ in self.loader:
            n += len(x)
        return (time.perf_counter() - started) / n

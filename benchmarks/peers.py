"""More contenders than the four of `steps`: what users would otherwise write, with images that torchvision transforms one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import data_path, steps
from benchmarks.contenders import LoggedTheUsualWay, random_images
from benchmarks.measure import Comparison, Wanted

__all__ = ["comparisons"]

COLLATED, PIL, PIL_WORKERS = "by hand, DataLoader(TensorDataset)", "as templates have it", "as templates have it, 2 workers"
V2, V2_WORKERS = "torchvision v2 on tensors", "torchvision v2 on tensors, 2 workers"


class AsTemplatesHaveIt(LoggedTheUsualWay):
    """The images are normalised by the data set, one by one."""

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The first two settings of `steps`, then the data path."""
    for setting in steps.SETTINGS[:2]:
        yield _steps(setting, 8 if quick else setting.steps // 2)
    images, labels = random_images(1000 if quick else 10_000, (3, 32, 32))
    pictures = partial(data_path.Pictures, images, labels)
    contenders: dict[str, Callable[[], float]] = {
        data_path.OURS: data_path.Ours(images, labels),
        data_path.WORKERS: data_path.OneByOne(pictures(data_path.pil_transform()), workers=2),
        "torchvision + PIL": data_path.OneByOne(pictures(data_path.pil_transform()), workers=0),
        V2: data_path.OneByOne(_Tensors(images, labels), workers=0),
        V2_WORKERS: data_path.OneByOne(_Tensors(images, labels), workers=2),
    }
    ratios = [Wanted(name, data_path.OURS) for name in contenders if name != data_path.OURS]
    yield Comparison("peers: data path", contenders, ratios, per="example", examples=1, once_before=True)


def _steps(setting: steps.Setting, per_epoch: int) -> Comparison:
    from torchvision import transforms as T

    images, labels = random_images(per_epoch * setting.batch, (1, 28, 28))
    run = steps.Run.of(setting, images, labels, per_epoch)
    transform = T.Compose([T.ToTensor(), T.Normalize(run.mean, run.std)])

    def template(workers: int) -> float:
        data = data_path.Pictures(images, labels, transform)
        loader: DataLoader[Any] = DataLoader(
            data, batch_size=setting.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        module = AsTemplatesHaveIt(setting.network(), run.mean, run.std, run.total)
        with steps.unseen():
            return steps.fit(module, loader, per_epoch, [LearningRateMonitor("step")], tensorboard={}, **steps.SHOWN_AND_SAVED)

    contenders: dict[str, Callable[[], float]] = {
        steps.BY_HAND: run.by_hand,
        COLLATED: run.collated,
        PIL: partial(template, 0),
        PIL_WORKERS: partial(template, 2),
        steps.OURS: run.ours,
    }
    ratios = [Wanted(name, steps.OURS) for name in contenders if name != steps.OURS]
    return Comparison(f"peers: {setting.title}", contenders, ratios, examples=setting.batch)


class _Tensors(Dataset[tuple[Tensor, int]]):
    """Images that stay tensors and are transformed one by one by torchvision.transforms.v2."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import v2

        self.images, self.labels = images, labels.tolist()
        to_float = v2.ToDtype(torch.float32, scale=True)
        normalise = v2.Normalize(data_path.MEAN, data_path.STD)
        self.transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), to_float, normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]

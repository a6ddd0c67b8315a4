"""What is trained in the benchmarks: the same network in plain Lightning and with the usual logging, and images in memory for ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from noisescale.data import ImageDataModule
from noisescale.data.images import Examples, Split, normalize

__all__ = ["CLASSES", "LR", "InMemory", "LoggedTheUsualWay", "Plain", "cosine", "random_images"]

CLASSES = 10
LR = 0.01


class Plain(pl.LightningModule):
    """A loss and an optimizer; nothing is logged."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], steps: int) -> None:
        super().__init__()
        self.net, self.steps, self.done = net, steps, 0
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=LR, momentum=0.9)

    def configure_optimizers(self) -> Any:
        return self.sgd

    def logits(self, images: Tensor) -> Tensor:
        """The logits of uint8 images."""
        logits: Tensor = self.net(normalize(images, self.mean, self.std, torch.float32))
        return logits

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        self.sgd.param_groups[0]["lr"] = LR * cosine(self.done, self.steps)
        self.done += 1
        return F.cross_entropy(self.logits(batch[0]), batch[1])


class LoggedTheUsualWay(Plain):
    """Logs loss and accuracy with metric objects, at every step and every epoch, as the manuals and the popular templates do."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float], steps: int) -> None:
        super().__init__(net, mean, std, steps)
        self.accuracy, self.mean_loss = MulticlassAccuracy(CLASSES, average="micro"), MeanMetric()

    def configure_optimizers(self) -> Any:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.sgd, self.steps)
        return {"optimizer": self.sgd, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        logits = self.logits(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.mean_loss(loss)
        self.log("train/loss", self.mean_loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return loss


class InMemory(ImageDataModule):
    """Our datamodule with given images instead of a data set."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int, augment: str = "none") -> None:
        choices: dict[str, Any] = {"subset_size": None, "val_fraction": 0.0, "eval_batch_size": 1000, "seed": 0}
        super().__init__(**choices, augment=augment, num_workers=0, in_memory="auto", memory_limit_gb=4, batch_size=batch)
        self._images, self._labels = images, labels

    def train_examples(self) -> int:
        return len(self._labels)

    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        names = tuple(map(str, range(CLASSES)))
        if split == "test":
            return Examples(self._images[:1], self._labels[:1], names)
        rows = select(self._labels)
        return Examples(self._images[rows], self._labels[rows], names)


def random_images(n: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """n random images, uint8, and their labels; the same each time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (n,), generator=generator)


def cosine(step: int, steps: int) -> float:
    """The factor of the learning rate at `step` of `steps`."""
    return (1 + math.cos(math.pi * step / steps)) / 2

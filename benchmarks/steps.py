"""Seconds per optimizer step: a hand-written loop, plain Lightning, Lightning with the usual logging, and ours, which logs more.

All four train the same network on the same uint8 images in memory, with a single gather and one normalisation per batch, SGD with
momentum, and a new learning rate for every step. Whole epochs are timed, from the end of the first to the end of the last, including
everything that happens between two steps and between two epochs; start-up is not counted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contenders import CLASSES, LR, InMemory, LoggedTheUsualWay, Plain, cosine, random_images
from benchmarks.measure import Comparison, Wanted
from noisescale.callbacks import (
    BatchSizeScheduler,
    Checkpoint,
    EpochRecorder,
    NoiseScaleMonitor,
    SameRun,
    SaveOnOutOfMemory,
    StopOnDivergence,
    StopOnSignal,
    TimedProgressBar,
)
from noisescale.data.images import ImageDataset, as_is, channel_statistics, normalize
from noisescale.execution.lean import NoProfiler
from noisescale.models import CNN, MLP, Classifier
from noisescale.plans.strategies import Fixed
from noisescale.schedules import Cosine

__all__ = ["SETTINGS", "Clock", "Run", "Setting", "comparisons", "fit", "unseen", "watching"]

TIMED_EPOCHS = 2

# With a progress bar and a checkpoint per epoch, which are Trainer's defaults.
SHOWN_AND_SAVED = {"enable_progress_bar": True, "enable_checkpointing": True}

BY_HAND, PLAIN, USUAL, OURS = "by hand", "Lightning, all off", "Lightning, usual logging", "ours, all logging"


@dataclass(frozen=True)
class Setting:
    """One network at one batch size.

    Args:
        title: names both.
        network: builds the network.
        batch: B, examples.
        steps: number of steps in each epoch, so that N = steps x B.
        by_hand: the most that ours may cost, relative to the hand-written loop.
        usual: the least that the usual logging costs, relative to ours; None: no bound.
    """

    title: str
    network: Callable[[], nn.Module]
    batch: int
    steps: int
    by_hand: float
    usual: float | None


# Both take images of 1 x 28 x 28. The hand-written loop on one thread of the README's machine: 0.9 ms (B 64) and 12 ms per step.
_mlp = partial(MLP, input_shape=(1, 28, 28), num_outputs=CLASSES, widths=[256, 128])
_cnn = partial(CNN, input_shape=(1, 28, 28), num_outputs=CLASSES, widths=[16, 32], hidden=128, norm="none", ghost_batch_size=None)
SETTINGS = (
    Setting("MLP, B 64", _mlp, 64, 512, 1.75, 2.5),
    Setting("MLP, B 256", _mlp, 256, 128, 1.35, 1.8),
    Setting("MLP, B 1024", _mlp, 1024, 48, 1.15, None),
    Setting("CNN, B 64", _cnn, 64, 64, 1.06, None),
)


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The four contenders at each setting."""
    for setting in SETTINGS:
        steps = 8 if quick else setting.steps
        run = Run.of(setting, *random_images(steps * setting.batch, (1, 28, 28)), steps)
        contenders = {BY_HAND: run.by_hand, PLAIN: run.plain, USUAL: run.usual, OURS: run.ours}
        yield Comparison(
            setting.title,
            contenders,
            [
                Wanted(OURS, PLAIN, at_most=1.10),
                Wanted(OURS, BY_HAND, at_most=setting.by_hand),
                Wanted(USUAL, OURS, at_least=setting.usual),
                Wanted(PLAIN, BY_HAND),
                Wanted(USUAL, BY_HAND),
            ],
            examples=setting.batch,
        )


@dataclass(frozen=True, eq=False)
class Run:
    """The contenders of one setting: each trains from scratch for 1 + TIMED_EPOCHS epochs and returns its seconds per step.

    Args:
        images, labels: uint8 and int64, steps x B of them.
        steps: number of steps in each epoch.
        mean, std: of the images' channels, in units of [0, 1].
    """

    setting: Setting
    images: Tensor
    labels: Tensor
    steps: int
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(cls, setting: Setting, images: Tensor, labels: Tensor, steps: int) -> Run:
        """The run with these images."""
        return cls(setting, images, labels, steps, *channel_statistics(images))

    @property
    def total(self) -> int:
        """Steps in all."""
        return (1 + TIMED_EPOCHS) * self.steps

    def by_hand(self) -> float:
        """The loop of a PyTorch user for whom every microsecond counts."""

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            order = torch.randperm(len(self.labels))
            for start in range(0, len(order), self.setting.batch):
                rows = order[start : start + self.setting.batch]
                # index_select takes a tenth of the time of images[rows].
                yield normalize(self.images.index_select(0, rows), mean, std, torch.float32), self.labels[rows]

        mean, std = self._statistics()
        return self._loop(batches)

    def collated(self) -> float:
        """The same loop over the most common loader, which fetches floats one by one and collates them."""
        mean, std = self._statistics()
        data = TensorDataset(normalize(self.images, mean, std, torch.float32), self.labels)
        loader = DataLoader(data, batch_size=self.setting.batch, shuffle=True)
        return self._loop(lambda: iter(loader))

    def _loop(self, batches: Callable[[], Iterator[Any]]) -> float:
        net = self.setting.network()
        parameters = list(net.parameters())
        optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9)
        step, ends = 0, []
        for _ in range(1 + TIMED_EPOCHS):
            for x, y in batches():
                optimizer.param_groups[0]["lr"] = LR * cosine(step, self.total)
                for parameter in parameters:  # as in ours; optimizer.zero_grad() takes ten times as long
                    parameter.grad = None
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
                step += 1
            ends.append(time.perf_counter())
        return (ends[-1] - ends[0]) / (TIMED_EPOCHS * self.steps)

    def plain(self) -> float:
        """Lightning with everything off. It sets the learning rate by hand, which costs less than a scheduler does."""
        return fit(Plain(self.setting.network(), self.mean, self.std, self.total), self._loader(), self.steps)

    def usual(self) -> float:
        """Lightning with torchmetrics, LearningRateMonitor, TensorBoard at every step, and its own progress bar and checkpoints."""
        module = LoggedTheUsualWay(self.setting.network(), self.mean, self.std, self.total)
        with unseen():
            return fit(module, self._loader(), self.steps, [LearningRateMonitor("step")], tensorboard={}, **SHOWN_AND_SAVED)

    def ours(self) -> float:
        """What `train.py` does by default, with checkpoints and progress bar."""
        with tempfile.TemporaryDirectory() as folder, unseen():
            data = InMemory(self.images, self.labels, self.setting.batch)
            data.setup()
            optimizer = partial(torch.optim.SGD, lr=LR, momentum=0.9)
            module = Classifier(self.setting.network(), lambda net: optimizer(net.parameters()))
            callbacks = [BatchSizeScheduler(Fixed(size=self.setting.batch), Cosine()), *watching(Path(folder))]
            writer = {"max_queue": 4096}
            return fit(module, data, self.steps, callbacks, tensorboard=writer, profiler=NoProfiler(), **SHOWN_AND_SAVED)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)

    def _loader(self) -> DataLoader[Any]:
        dataset = ImageDataset(self.images, self.labels, with_indices=False)
        return DataLoader(dataset, batch_size=self.setting.batch, shuffle=True, collate_fn=as_is)


def fit(
    module: pl.LightningModule,
    data: Any,
    steps: int,
    callbacks: Sequence[pl.Callback] = (),
    tensorboard: dict[str, Any] | None = None,
    **options: Any,
) -> float:
    """Seconds per step of a `trainer.fit` in which everything is off unless it is asked for."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "max_epochs": 1 + TIMED_EPOCHS,
            "accelerator": "cpu",
            "logger": tensorboard is not None and TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **tensorboard),
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": folder,
        }
        trainer = pl.Trainer(**{**settings, **options}, callbacks=[*callbacks, clock])
        if isinstance(data, pl.LightningDataModule):
            trainer.fit(module, datamodule=data)
        else:
            trainer.fit(module, train_dataloaders=data)
    if trainer.global_step != (1 + TIMED_EPOCHS) * steps:
        raise RuntimeError(f"took {trainer.global_step} steps instead of {(1 + TIMED_EPOCHS) * steps}")
    return (clock.ends[-1] - clock.ends[0]) / (TIMED_EPOCHS * steps)


def watching(folder: Path) -> list[pl.Callback]:
    """The callbacks of `train.py` other than the plan's, including checkpoints and progress bar; they write to `folder`."""
    return [
        SameRun({"seed": 0}),
        NoiseScaleMonitor(folder / "steps.csv"),
        EpochRecorder(folder / "epochs.csv"),
        StopOnDivergence(),
        Checkpoint(folder / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False),
        StopOnSignal(folder / "checkpoints" / "last.ckpt"),
        SaveOnOutOfMemory(folder / "checkpoints" / "last.ckpt"),
        TimedProgressBar(seconds=0.1),
    ]


@contextmanager
def unseen() -> Iterator[None]:
    """Discard the output: progress bars are drawn, but not shown."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


class Clock(pl.Callback):
    """Records when each epoch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends.append(time.perf_counter())

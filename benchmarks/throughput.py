"""Images per second in training on images of CIFAR-10's size: a hand-written loop, ours with all callbacks, and ours with only the plan;
then the gain from larger micro-batches.

The images are on the device, which is a GPU if there is one. All contenders train the same network in channels_last under bfloat16
autocast, on a GPU also compiled, with SGD with momentum and a new learning rate for every step. Whole epochs are timed, from the end of the
first to the end of the last, and only at these two points is the device synchronised. On the CPU, networks and data are small.
"""

from __future__ import annotations

import pkgutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import steps
from benchmarks.contenders import CLASSES, LR, InMemory, cosine, random_images
from benchmarks.measure import Comparison, Wanted
from noisescale.callbacks import BatchSizeScheduler
from noisescale.data.images import channel_statistics, normalize
from noisescale.execution.lean import NoProfiler
from noisescale.models import Classifier
from noisescale.models.building import compute_as
from noisescale.plans.strategies import Fixed
from noisescale.schedules import Cosine

__all__ = ["Setting", "Trained", "comparisons", "settings"]

BY_HAND, OURS, PLAN = "by hand", "ours, all logging", "ours, the plan alone"
EPOCHS = 1 + steps.TIMED_EPOCHS


@dataclass(frozen=True)
class Setting:
    """One network, with as much work as a device can finish soon.

    Args:
        title: names the network and the batch size.
        architecture, options: as in conf/model.
        batch: B, examples, for all contenders except those of the last comparison.
        steps: number of steps in each epoch, so that N = steps x B.
    """

    title: str
    architecture: str
    options: dict[str, Any]
    batch: int
    steps: int


def settings(device: torch.device, quick: bool) -> list[Setting]:
    """ResNet-18 and WRN-16-4; on the CPU, their smallest variants."""
    resnet, wrn = "noisescale.models.ResNet18", "noisescale.models.WideResNet"
    if device.type != "cpu" and not quick:
        return [
            Setting("ResNet-18, B 512", resnet, {"width": 64}, 512, 98),
            Setting("WRN-16-4, B 512", wrn, {"depth": 16, "width": 4, "dropout": 0.0}, 512, 98),
        ]
    steps_ = 2 if quick else 4
    return [
        Setting("ResNet-18 of width 4, B 64", resnet, {"width": 4}, 64, steps_),
        Setting("WRN-10-1, B 64", wrn, {"depth": 10, "width": 1, "dropout": 0.0}, 64, steps_),
    ]


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The three contenders for each network; then B 128, 640, 3200 of the second network, in micro-batches of 128 and in a single one."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    chosen = settings(device, quick)
    for setting in chosen:
        trained = partial(Trained, setting, device, setting.batch, setting.steps)
        contenders: dict[str, Callable[[], float]] = {BY_HAND: trained().by_hand, OURS: trained().ours, PLAN: trained().plan}
        ratios = [Wanted(OURS, BY_HAND), Wanted(PLAN, BY_HAND), Wanted(OURS, PLAN)]
        title = f"throughput, {device.type}: {setting.title}"
        yield Comparison(title, contenders, ratios, per="image", examples=1, once_before=True)
    yield _micro_batches(chosen[-1], device, *((128, 16) if device.type != "cpu" and not quick else (8, 1)))


def _micro_batches(setting: Setting, device: torch.device, micro: int, largest: int) -> Comparison:
    """One epoch at B = micro, 5 micro and 25 micro, the last two in micro-batches of `micro` and in a single one.

    It has `largest` updates at B = 25 micro.
    """
    contenders: dict[str, Callable[[], float]] = {}
    ratios = []
    for parts in (1, 5, 25):
        batch, updates = parts * micro, largest * 25 // parts
        whole = f"B {batch}"
        contenders[whole] = Trained(setting, device, batch, updates).epoch
        if parts > 1:
            contenders[f"{whole}, {parts} x {micro}"] = Trained(setting, device, batch, updates, limit=micro).epoch
            ratios += [Wanted(f"B {micro}", whole), Wanted(f"{whole}, {parts} x {micro}", whole)]
    title = f"an epoch by the batch, {device.type}: {setting.title.partition(',')[0]}"
    return Comparison(title, contenders, ratios, per="epoch", unit="s", examples=25 * micro * largest, once_before=True)


class Trained:
    """A network, and ways to train it for `EPOCHS` more epochs; each returns seconds per image, without the first epoch.

    Args:
        batch: B, examples.
        updates: number of updates in each epoch, so that N = updates x B.
        limit: the most examples in a micro-batch; None: B.
    """

    def __init__(self, setting: Setting, device: torch.device, batch: int, updates: int, limit: int | None = None) -> None:
        self.device, self.batch, self.updates, self.limit = device, batch, updates, limit
        self.images, self.labels = random_images(updates * batch, (3, 32, 32))
        described = {"input_shape": (3, 32, 32), "num_outputs": CLASSES, "ghost_batch_size": None}
        net = pkgutil.resolve_name(setting.architecture)(**described, **setting.options)
        self.net: nn.Module = compute_as(net, channels_last=True, compile=False)
        self.compiled = False

    def _compile(self, dynamic: bool | None) -> None:
        if self.device.type != "cpu" and not self.compiled:
            self.net.compile(dynamic=dynamic)
            self.compiled = True

    def by_hand(self) -> float:
        """The loop of a PyTorch user for whom every microsecond counts."""
        self._compile(None)
        net = self.net.to(self.device).train()
        images, labels = self.images.to(self.device), self.labels.to(self.device)
        mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in channel_statistics(self.images))
        optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
        step, ends = 0, []
        for epoch in range(EPOCHS):
            for rows in torch.randperm(len(labels), device=self.device).split(self.batch):
                optimizer.param_groups[0]["lr"] = LR * cosine(step, EPOCHS * self.updates)
                optimizer.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16):
                    x = normalize(images.index_select(0, rows), mean, std, torch.float32)
                    loss = F.cross_entropy(net(x), labels.index_select(0, rows))
                loss.backward()
                optimizer.step()
                step += 1
            if epoch in (0, EPOCHS - 1):
                _wait(self.device)
                ends.append(time.perf_counter())
        return (ends[-1] - ends[0]) / (steps.TIMED_EPOCHS * len(labels))

    def plan(self) -> float:
        """With our module, data and `BatchSizeScheduler`; nothing is logged."""
        return self._fit([])

    def epoch(self) -> float:
        """The same as `plan`, but in seconds per epoch."""
        return self.plan() * len(self.labels)

    def ours(self) -> float:
        """What `train.py` does by default, with checkpoints and progress bar."""
        with tempfile.TemporaryDirectory() as folder, steps.unseen():
            return self._fit(steps.watching(Path(folder)), tensorboard={"max_queue": 4096}, **steps.SHOWN_AND_SAVED)

    def _fit(self, callbacks: Sequence[pl.Callback], **options: Any) -> float:
        self._compile(True)  # as model.compile=true does
        data = InMemory(self.images, self.labels, self.batch)
        data.setup()
        module = Classifier(self.net, lambda net: torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9))
        planned = BatchSizeScheduler(Fixed(size=self.batch), Cosine(), max_micro_batch_size=self.limit)
        where: dict[str, Any] = {"accelerator": "cpu" if self.device.type == "cpu" else "gpu", "devices": 1, "precision": "bf16-mixed"}
        everything = [planned, *callbacks, _Waiting()]
        return steps.fit(module, data, self.updates, everything, profiler=NoProfiler(), **where, **options) / self.batch


class _Waiting(pl.Callback):
    """Waits for the device at the two epoch ends between which `steps.fit` measures: after the first epoch and after the last."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch in (0, EPOCHS - 1):
            _wait(pl_module.device)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()

"""What precision, memory format, compilation, the optimizer's implementation and threads cost or save, on the CPU or on a GPU.

A step is forward, backward and optimizer step of SGD with momentum, on a batch that is already on the device. Each contender differs from
the first one in one respect. If there is a GPU, it is used, with larger networks and batches and with additional contenders. On the CPU,
work in a single thread is measured in CPU time, which other processes affect less than wall-clock time. Numbers of threads are compared in
wall-clock time, which means nothing on a busy machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import Comparison, Wanted
from noisescale.models import CNN, MLP, ResNet18, WideResNet
from noisescale.models.building import to_channels_last
from noisescale.models.compiling import compile_in_place
from noisescale.models.optimizers import RMSpropNesterov

__all__ = ["PLAIN", "Setting", "Trained", "Variant", "comparisons", "settings", "variants"]

CLASSES = 10
PLAIN = "32-true"


@dataclass(frozen=True)
class Setting:
    """One network at one batch size.

    Args:
        title: names both.
        network: builds the network.
        image: (c, h, w).
        batch: B, examples.
        steps: number of steps timed in each round.
    """

    title: str
    network: Callable[[], nn.Module]
    image: tuple[int, int, int]
    batch: int
    steps: int


@dataclass(frozen=True)
class Variant:
    """A way to compute the same step.

    Args:
        bf16: run the forward pass under bfloat16 autocast, as `trainer.precision=bf16-mixed` does.
        channels_last, compile: as `model.channels_last` and `model.compile`.
        optimizer: options of the optimizer.
        threads: number of torch's threads, on the CPU.
        matmul: argument of torch.set_float32_matmul_precision; high is TF32 on a GPU.
        cudnn_benchmark: let cuDNN try out its algorithms at each new shape.
    """

    bf16: bool = False
    channels_last: bool = False
    compile: bool = False
    optimizer: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    matmul: str = "highest"
    cudnn_benchmark: bool = False

    @contextmanager
    def globally(self) -> Iterator[None]:
        """Apply torch's process-wide settings, and restore the old ones afterwards."""
        before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
        try:
            self._set(self.threads, self.matmul, self.cudnn_benchmark)
            yield
        finally:
            self._set(*before)

    @staticmethod
    def _set(threads: int, matmul: str, cudnn_benchmark: bool) -> None:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.benchmark = cudnn_benchmark


class Trained:
    """A network that is trained with one variant; a call takes `steps` steps and returns seconds per step."""

    def __init__(self, setting: Setting, variant: Variant, device: torch.device, by_clock: bool = False) -> None:
        self.setting, self.variant, self.device, self.by_clock = setting, variant, device, by_clock
        torch.manual_seed(0)
        self.net = setting.network().to(device)
        self.images = torch.randn(setting.batch, *setting.image, device=device)
        self.labels = torch.randint(0, CLASSES, (setting.batch,), device=device)
        if variant.channels_last:
            to_channels_last(self.net)
        if variant.compile:
            compile_in_place(self.net, None)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, **variant.optimizer)

    def __call__(self) -> float:
        with self.variant.globally():
            self.step()
            now = partial(_now, self.device, self.by_clock)
            started = now()
            for _ in range(self.setting.steps):
                self.step()
            return (now() - started) / self.setting.steps

    def step(self) -> None:
        """One forward pass, backward pass and update."""
        self.optimizer.zero_grad()
        with self._autocast():
            loss = F.cross_entropy(self.net(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.variant.bf16 else nullcontext()


def variants(device: torch.device) -> dict[str, Variant]:
    """The contenders; the others are compared with the first."""
    rows = {
        PLAIN: Variant(),
        "bf16-mixed": Variant(bf16=True),
        "channels_last": Variant(channels_last=True),
        "bf16-mixed, channels_last": Variant(bf16=True, channels_last=True),
        "compile": Variant(compile=True),
        "foreach": Variant(optimizer={"foreach": True}),
        "fused": Variant(optimizer={"fused": True}),
    }
    if device.type == "cpu":
        return rows
    return rows | {
        "tf32 (matmul precision high)": Variant(matmul="high"),
        "cudnn.benchmark": Variant(cudnn_benchmark=True),
        "bf16-mixed, channels_last, compile, fused": Variant(bf16=True, channels_last=True, compile=True, optimizer={"fused": True}),
    }


def settings(device: torch.device, quick: bool) -> list[Setting]:
    """Networks small enough for the machine to finish within minutes."""
    grey, colour = (1, 28, 28), (3, 32, 32)
    of_mnist: dict[str, Any] = {"input_shape": (1, 28, 28), "num_outputs": CLASSES}
    of_cifar: dict[str, Any] = {"input_shape": (3, 32, 32), "num_outputs": CLASSES}
    mlp = partial(MLP, **of_mnist, widths=[256, 128])
    cnn = partial(CNN, **of_cifar, widths=[32, 64, 128], hidden=128, norm="none", ghost_batch_size=None)
    if quick:
        return [Setting("MLP, B 8", mlp, grey, 8, 2)]
    if device.type == "cpu":
        wrn = partial(WideResNet, **of_cifar, depth=10, width=2, dropout=0.0, ghost_batch_size=None)
        return [
            Setting("MLP, B 64", mlp, grey, 64, 200),
            Setting("CNN, B 64", cnn, colour, 64, 5),
            Setting("CNN, B 512", cnn, colour, 512, 1),
            Setting("WRN-10-2, B 64", wrn, colour, 64, 2),
        ]
    wrn = partial(WideResNet, **of_cifar, depth=16, width=4, dropout=0.0, ghost_batch_size=None)
    resnet = partial(ResNet18, **of_cifar, width=64, ghost_batch_size=None)
    return [
        Setting("MLP, B 512", mlp, grey, 512, 500),
        Setting("CNN, B 512", cnn, colour, 512, 200),
        Setting("WRN-16-4, B 512", wrn, colour, 512, 30),
        Setting("ResNet-18, B 512", resnet, colour, 512, 30),
    ]


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The variants at each setting; on the CPU, one thread against several; and the optimizer steps alone."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    for setting in settings(device, quick):
        rows = variants(device)
        if quick:
            rows.pop("compile")
        contenders = {name: Trained(setting, variant, device) for name, variant in rows.items()}
        title = f"{_kind(device)}: {setting.title}"
        ratios = [Wanted(name, PLAIN) for name in rows if name != PLAIN]
        yield Comparison(title, contenders, ratios, unit="ms", examples=setting.batch, once_before=True)
    if device.type == "cpu":
        for setting in settings(device, quick):
            yield _threads(setting, device)
    for setting in settings(device, quick):
        if device.type != "cpu" or setting.batch != 512:  # on the CPU, B 512 has the same parameters as B 64
            yield _optimizers(setting, device)


def _threads(setting: Setting, device: torch.device) -> Comparison:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = {1: "1 thread", **{count: f"{count} threads" for count in sorted({2, cores}) if 1 < count <= cores}}
    contenders = {name: Trained(setting, Variant(threads=count), device, by_clock=True) for count, name in names.items()}
    ratios = [Wanted(name, names[1]) for name in names.values() if name != names[1]]
    return Comparison(f"threads: {setting.title}", contenders, ratios, unit="ms", examples=setting.batch, once_before=True)


OPTIMIZERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (torch.optim.Adam, {}),
}
ONE_BY_ONE = "one by one"
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {ONE_BY_ONE: {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def _optimizers(setting: Setting, device: torch.device) -> Comparison:
    """`step()` alone, with each implementation."""
    contenders: dict[str, Callable[[], float]] = {}
    ratios = []
    for name, (make, options) in OPTIMIZERS.items():
        for how, choice in IMPLEMENTATIONS.items():
            contenders[f"{name}, {how}"] = _Stepped(setting, partial(make, lr=1e-3, **options, **choice), device)
        ratios += [Wanted(f"{name}, {how}", f"{name}, {ONE_BY_ONE}") for how in IMPLEMENTATIONS if how != ONE_BY_ONE]
    contenders["rmsprop_nesterov (foreach)"] = _Stepped(setting, partial(RMSpropNesterov, lr=1e-3, alpha=0.99, momentum=0.9), device)
    title = f"{_kind(device)}: optimizer.step() of {setting.title.partition(',')[0]}"
    return Comparison(title, contenders, ratios, once_before=True)


class _Stepped:
    """An optimizer whose gradients stay the same; a call takes steps and returns seconds per step."""

    def __init__(self, setting: Setting, make: Callable[..., Any], device: torch.device) -> None:
        self.setting, self.device = setting, device
        self.net = setting.network().to(device)
        for p in self.net.parameters():
            p.grad = torch.randn_like(p)
        self.optimizer = make(self.net.parameters())

    def __call__(self) -> float:
        steps = max(self.setting.steps, 20)
        with Variant().globally():
            self.optimizer.step()
            started = _now(self.device)
            for _ in range(steps):
                self.optimizer.step()
            return (_now(self.device) - started) / steps


def _now(device: torch.device, by_clock: bool = False) -> float:
    """The time in seconds once the device has finished its work: CPU time for one thread on the CPU, otherwise wall-clock time."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() if by_clock or device.type != "cpu" else time.process_time()


def _kind(device: torch.device) -> str:
    return "CPU, one thread" if device.type == "cpu" else device.type.upper()

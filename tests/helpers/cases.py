"""Small trainings that tests compare: a module and a data set that know nothing of noisescale, and recorders of what happened."""

from __future__ import annotations

import copy
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.loader import PlannedLoader

N = 103
"""Examples: a prime, so that nothing divides it."""

ignored = (
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*`isinstance.treespec.*",
    "ignore:.*smaller than the logging interval.*",
)
"""Warnings of Lightning's own that do not concern these tests, for `pytestmark = pytest.mark.filterwarnings`."""


class Regression(Dataset[tuple[Tensor, Tensor, int]]):
    """(x, y, index): 103 points, fixed."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(N, 5, generator=generator, dtype=torch.float64).to(dtype)
        self.y = (self.x.double() @ torch.randn(5, 2, generator=generator, dtype=torch.float64)).sin().to(dtype)

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.x[index], self.y[index], index


def network(dtype: torch.dtype = torch.float64, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    """The same initial weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers: list[nn.Module] = [nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(16))
        return nn.Sequential(*layers).to(dtype)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


class Plain(pl.LightningModule):
    """A mean squared error; remembers which examples each micro-batch held, and how many each update took."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer] = sgd) -> None:
        super().__init__()
        self.net, self.make_optimizer = net, optimizer
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, index = batch
        self.seen.append(index.tolist())
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.net.parameters())


def big_batch_gradient(net: nn.Module, data: Regression, indices: Tensor) -> Tensor:
    """The gradient of the mean loss over `indices` as one batch, at the net's weights; flat."""
    twin = copy.deepcopy(net)
    twin.zero_grad()
    F.mse_loss(twin(data.x[indices]), data.y[indices]).backward()
    return torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])


class GradientErrors(pl.Callback):
    """|g - g_big| / |g_big| of every update: the accumulated gradient against one batch of the planned examples, at the same weights."""

    def __init__(self, data: Regression) -> None:
        self.data = data
        self.errors: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, PlannedLoader)
        assert loader.current is not None
        update = loader.current.update
        indices = loader.indices(update.start.position, update.effective_batch_size)
        net = pl_module.net
        assert isinstance(net, nn.Module)
        expected = big_batch_gradient(net, self.data, indices)
        found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        self.errors.append(float((found - expected).norm() / expected.norm()))


def fit(
    module: pl.LightningModule,
    *callbacks: pl.Callback,
    data: Dataset[Any] | None = None,
    workers: int = 0,
    shuffle: bool = True,
    loader: Any = None,
    ckpt_path: str | Path | None = None,
    **trainer: Any,
) -> pl.Trainer:
    """Fit on the CPU, quietly; the trainer."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    if loader is None and not is_overridden("train_dataloader", module):
        dtype = next(module.parameters()).dtype
        loader = DataLoader(data or Regression(dtype), batch_size=7, shuffle=shuffle, num_workers=workers)
    made = pl.Trainer(**{**defaults, **trainer}, callbacks=list(callbacks))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
        made.fit(module, loader, ckpt_path=ckpt_path)
    return made


def weights(module: pl.LightningModule) -> Tensor:
    """All parameters, flat."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def scheduler_of(trainer: pl.Trainer) -> BatchSizeScheduler:
    """The trainer's BatchSizeScheduler."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, BatchSizeScheduler))  # type: ignore[attr-defined]


class KilledByTheSystem(pl.Callback):
    """Ends the process at the first batch, as the system does for want of memory."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Unpicklable(Exception):
    """An error that pickle cannot bring back."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class FailsWithSeed0(pl.Callback):
    """Raises an error of its own in the run with seed 0."""

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if os.environ.get("PL_GLOBAL_SEED") == "0":
            raise Unpicklable("first", "second")

"""Quiet trainings in this process, and callbacks that record what happened in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.loader import PlannedLoader
from tests.helpers.regression import Regression, big_batch_gradient

ignored = (
    "ignore:.*does not have many workers.*",
    "ignore:.*LeafSpec.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*`isinstance.treespec.*",
    "ignore:.*smaller than the logging interval.*",
    "ignore:.*dropout draws other masks.*",
    "ignore:.*batch norm sees each micro-batch alone.*",
    "ignore:.*multi-threaded, use of fork.*",  # Python 3.12, of every DataLoader with workers
)
"""Warnings that do not matter to these tests, most of them Lightning's own, each as a filter for `pytest.mark.filterwarnings`."""


def quiet_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A trainer of three epochs on the CPU in one process that prints nothing and writes no files; `options` override this."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**{**quiet, **options}, callbacks=list(callbacks))


def fit(
    module: pl.LightningModule,
    *callbacks: pl.Callback,
    data: Dataset[Any] | None = None,
    workers: int = 0,
    shuffle: bool = True,
    loader: Any = None,
    ckpt_path: str | Path | None = None,
    **options: Any,
) -> pl.Trainer:
    """Fit with a quiet trainer, on the regression data unless others are given; returns the trainer."""
    if loader is None and not is_overridden("train_dataloader", module):
        dtype = next(module.parameters()).dtype
        loader = DataLoader(data or Regression(dtype), batch_size=7, shuffle=shuffle, num_workers=workers)
    trainer = quiet_trainer(*callbacks, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
        trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer


def weights(module: pl.LightningModule) -> Tensor:
    """All parameters, as one flat vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def scheduler_of(trainer: pl.Trainer) -> BatchSizeScheduler:
    """The trainer's BatchSizeScheduler."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, BatchSizeScheduler))  # type: ignore[attr-defined]


class GradientErrors(pl.Callback):
    """Records |g - g_big| / |g_big| of every update: the accumulated gradient g against that of one batch of the planned examples."""

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


class Rates(pl.Callback):
    """Records the learning rates of all parameter groups at each update."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append([float(group["lr"]) for group in optimizer.param_groups])


class Stop(Exception):
    """Raised by `SaveAndDie` to end a training."""


class SaveAndDie(pl.Callback):
    """Saves a checkpoint after micro-batch `at` of the whole run, then raises `Stop`."""

    def __init__(self, at: int, path: Path, where: str = "batch_end") -> None:
        self.at, self.path, self.where, self.count = at, path, where, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.count += 1
        if self.count == self.at and self.where == "batch_end":
            trainer.save_checkpoint(self.path)
            raise Stop

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.count == self.at and self.where == "inside":
            raise Stop

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.where == "inside":
            trainer.save_checkpoint(self.path)

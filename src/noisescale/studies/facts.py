"""What is known of a training only once it runs: N, its optimizer, its first learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.compatibility import torch_name
from noisescale.execution.lean import LeanCallback
from noisescale.schedules import Constant
from noisescale.studies.training import Training

__all__ = ["Facts", "facts_of"]


@dataclass(frozen=True)
class Facts:
    """What a training is made of.

    Attributes:
        num_examples: N.
        optimizer: its class name.
        lr: of its first parameter group, before any schedule.
        smallest: the fewest examples of a forward pass; 2 with batch norm.
        limit: the largest micro-batch, in examples; None: no limit.
        device: the type of the device, such as cpu.
    """

    num_examples: int
    optimizer: str
    lr: float
    smallest: int
    limit: int | None
    device: str


class _Read(LeanCallback):
    def __init__(self) -> None:
        self.facts: Facts | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        optimizer = trainer.optimizers[0]
        self.facts = Facts(
            loader.plan.num_examples,
            torch_name(type(optimizer)),
            float(optimizer.param_groups[0]["lr"]),
            loader.plan.min_micro_batch_size,
            loader.plan.max_micro_batch_size,
            trainer.strategy.root_device.type,
        )


def facts_of(training: Training) -> Facts:
    """The facts of a training, of which one update is trained; the module is afterwards as it was."""
    read = _Read()
    with training.left_as_it_was():
        training.fit(training.strategy, Constant(), [read], max_steps=1)
    assert read.facts is not None
    return read.facts

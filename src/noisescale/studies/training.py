"""What studies train again and again: a module with its data and its plan, in quiet trainers of one device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng

from noisescale.errors import ConfigError, check_count
from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.checkpoint_io import SafeCheckpointIO
from noisescale.execution.lean import LeanCallback, NoProfiler
from noisescale.execution.quiet import without_lightnings_lines
from noisescale.execution.same_run import SameRun
from noisescale.plans.strategies import BatchStrategy, Fixed
from noisescale.schedules import Constant, Schedule

__all__ = ["Training", "strategy_of"]

_QUIET: dict[str, Any] = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "use_distributed_sampler": False,
}


_DECIDED: dict[str, Any] = {
    "max_epochs": None,
    "max_steps": -1,
    "max_time": None,
    "min_epochs": None,
    "min_steps": None,
    "limit_train_batches": 1.0,
    "callbacks": None,
    "plugins": None,
}
"""Arguments of the trainer that would change what a study trains, with the value that does not."""


@dataclass(frozen=True)
class Training:
    """A training of which a study carries out parts: it logs nothing, saves nothing by itself, and does not validate.

    Args:
        module: the LightningModule, with the weights that the training starts from.
        data: its LightningDataModule, or a DataLoader.
        strategy: the batch strategy of the training.
        schedule: its schedule.
        epochs: its length, which is the horizon of the schedule.
        seed: of the order of the examples and of the random numbers.
        scheduler: further arguments of `BatchSizeScheduler`, such as max_micro_batch_size or weight.
        trainer: arguments of Lightning's Trainer, such as accelerator, precision or gradient_clip_val.
        same_run: the choices that checkpoints are compared with; None: none.
        rate: lr of the training / lr of the optimizer that the module makes.
    """

    module: pl.LightningModule
    data: Any
    strategy: BatchStrategy
    schedule: Schedule = field(default_factory=Constant)
    epochs: int = 1
    seed: int = 0
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    same_run: SameRun | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.trainer.get("devices", 1) not in (1, "1", "auto") or self.trainer.get("num_nodes", 1) != 1:
            raise ConfigError("trainer.devices", self.trainer.get("devices"), "a study runs on one device", "use 1")
        check_count("epochs", self.epochs, unit="epochs")
        for key, value in self.trainer.items():
            if key in _DECIDED and value != _DECIDED[key]:
                raise ConfigError(f"trainer.{key}", value, "is decided by the study", "leave it out")
        for name, decided in (("batch", self.strategy), ("schedule", self.schedule)):
            if decided.monitors:
                problem = "is decided during the training, and a study needs a plan that is known before"
                raise ConfigError(name, type(decided).__name__, problem, "choose another one, such as a fixed size and a cosine")

    def fit(
        self,
        strategy: BatchStrategy,
        schedule: Schedule | None,
        callbacks: Sequence[pl.Callback],
        *,
        seed: int | None = None,
        ckpt_path: Path | None = None,
        io: SafeCheckpointIO | None = None,
        same_run: SameRun | None = None,
        max_epochs: int = -1,
        max_steps: int = -1,
    ) -> pl.Trainer:
        """Train with another plan; returns the trainer.

        Args:
            strategy, schedule: of the plan; without a schedule a callback sets the learning rate.
            callbacks: beside the `BatchSizeScheduler`.
            seed: None: that of the training.
            ckpt_path: what to go on from.
            io: reads and writes the checkpoints.
            same_run: compares the choices with those of the checkpoint.
            max_epochs, max_steps: when it ends; -1: not by this.
        """
        batches = BatchSizeScheduler(
            strategy, schedule, seed=self.seed if seed is None else seed, **{"check_cuts": False, **self.scheduler}
        )
        guards = [] if same_run is None else [same_run]
        given = {key: value for key, value in self.trainer.items() if key not in _DECIDED}
        data = {"datamodule": self.data} if isinstance(self.data, pl.LightningDataModule) else {"train_dataloaders": self.data}
        with without_lightnings_lines():
            trainer = pl.Trainer(
                **{**_QUIET, "profiler": NoProfiler(), **given, "devices": 1, "max_epochs": max_epochs, "max_steps": max_steps},
                callbacks=[_Rate(self.rate), batches, *guards, *callbacks],
                plugins=[io or SafeCheckpointIO()],
            )
            with _in_terms_of_a_study():
                trainer.fit(self.module, ckpt_path=None if ckpt_path is None else str(ckpt_path), **data)
        return trainer

    @contextmanager
    def left_as_it_was(self) -> Iterator[None]:
        """Afterwards the weights, the buffers and the modes of the module and the random number generators are as they were before."""
        state, modes = copy.deepcopy(self.module.state_dict()), {layer: layer.training for layer in self.module.modules()}
        needed = [parameter.requires_grad for parameter in self.module.parameters()]
        try:
            with isolate_rng():
                yield
        finally:
            self.module.load_state_dict(state)
            for parameter, requires in zip(self.module.parameters(), needed, strict=True):
                parameter.grad = None
                parameter.requires_grad_(requires)
            for layer, training in modes.items():
                layer.training = training


@contextmanager
def _in_terms_of_a_study() -> Iterator[None]:
    """Give the errors about the optimizers of a module a remedy that helps in a study, which always sets the learning rate."""
    try:
        yield
    except ConfigError as error:
        if error.key != "lr_scheduler":
            raise
        problem = "sets the learning rate, and so does a study"
        raise ConfigError(error.key, error.value, problem, "return the optimizer alone from configure_optimizers") from error
    except RuntimeError as error:
        if "multiple optimizers" not in str(error):  # Lightning's own check, which comes before ours
            raise
        remedy = "return one, with a parameter group in place of each; groups may have learning rates of their own"
        raise ConfigError("configure_optimizers", "several optimizers", "a study steps exactly one", remedy) from error


class _Rate(LeanCallback):
    """Scales the learning rate with which the module makes its optimizer, before anyone else has seen it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.rate != 1.0:
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["lr"] * self.rate


def strategy_of(batch: int | BatchStrategy) -> BatchStrategy:
    """A batch size as a strategy, with the last update of a pass filled from the next one."""
    return batch if isinstance(batch, BatchStrategy) else Fixed(size=batch, last="carry")

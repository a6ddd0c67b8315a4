"""What the plan of a training is made of, whatever the trainer and the data are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as pl

from noisescale.errors import ConfigError, check_count
from noisescale.execution.batch_norm import ghost_batch_size, min_micro_batch_size
from noisescale.execution.compatibility import torch_name
from noisescale.execution.micro_batch_limit import MicroBatchLimit
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.plans.trainer_limits import check_trainer_limits, plan_for_trainer
from noisescale.schedules import Schedule

__all__ = ["Planning"]


@dataclass(frozen=True, eq=False)
class Planning:
    """The choices of a `BatchSizeScheduler` that decide its plan; `limit` is its `max_micro_batch_size`.

    Raises:
        ConfigError: a value is out of range, or the strategy is not one.
    """

    strategy: BatchStrategy
    schedule: Schedule
    limit: MicroBatchLimit
    micro_batch_multiple: int | None
    min_micro_batch_size: int | None
    split_every: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, BatchStrategy):
            raise ConfigError("strategy", self.strategy, "must be a batch strategy", "for example plans.Fixed(size=64)")
        for name in ("micro_batch_multiple", "min_micro_batch_size"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value, unit="examples", remedy="None for what the module needs")
        if self.split_every is not None:
            check_count("split_every", self.split_every, unit="updates", remedy="None for none")

    def for_trainer(self, trainer: pl.Trainer, pl_module: pl.LightningModule, has_optimizer: Callable[[], bool]) -> Callable[[int], Plan]:
        """N -> the plan under the limits that the trainer has when this is called, which need not be those it has when the plan is made.

        Args:
            trainer: in its `setup`.
            pl_module: asked for its batch norm when the plan is made, because it may build its layers in its own `setup`.
            has_optimizer: whether the trainer has its optimizer, whose rule an open rule of the strategy becomes.

        Raises:
            ConfigError: as in `check_trainer_limits`; from the function that is returned, as in `plan_for_trainer`.
        """
        check_trainer_limits(trainer.max_steps, trainer.limit_train_batches)
        limit = trainer.limit_train_batches

        def plan(num_examples: int) -> Plan:
            return plan_for_trainer(
                self.schedule,
                self.strategy,
                num_examples,
                optimizer=torch_name(type(trainer.optimizers[0])) if has_optimizer() else None,
                max_epochs=trainer.max_epochs,
                max_steps=trainer.max_steps,
                limit_train_batches=limit,
                world_size=trainer.world_size,
                max_micro_batch_size=self.limit.value,
                micro_batch_multiple=self.micro_batch_multiple or ghost_batch_size(pl_module),
                min_micro_batch_size=self.min_micro_batch_size or min_micro_batch_size(pl_module, trainer.world_size),
                split_every=self.split_every,
            )

        return plan

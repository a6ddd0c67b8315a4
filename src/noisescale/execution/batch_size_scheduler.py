"""Carry out a plan exactly, with `Trainer.accumulate_grad_batches` and automatic optimization."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch

from noisescale.errors import ConfigError, check_count
from noisescale.execution.compatibility import check_compatibility, check_optimizers, untyped
from noisescale.execution.installation import Installation
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import MicroBatch, PlannedLoader
from noisescale.execution.partial_gradient import load_gradient, restore_gradient, save_gradient
from noisescale.execution.random_generators import seed_random_generators
from noisescale.execution.window import Window
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.plans.trainer_limits import check_trainer_limits, plan_for_trainer
from noisescale.schedules import Constant, Schedule
from noisescale.seeding import derive_seed

__all__ = ["BatchSizeScheduler"]


class BatchSizeScheduler(LeanCallback):
    """Train update k with exactly the examples, the micro-batches and the learning rate that the plan has for it.

    The gradient of each update is (1/B) sum over its B examples. The loss of each micro-batch, a mean over its n examples, is multiplied
    by n k W / B; Lightning divides it by k and averages the gradients over W devices, so that its weight in the gradient is n/B.
    `training_step` must return a mean over the examples of its batch. The random number generators (for dropout) are seeded for each
    micro-batch with (seed, step, j, rank), so a resumed run draws the same numbers.

    It replaces the train DataLoader of the datamodule, the module or `trainer.fit`, and keeps its dataset, collate_fn and workers; the
    batch size given there is not used. It moves to the front of the trainer's callbacks, so that its state is up to date when another
    callback saves a checkpoint. On one device, a checkpoint inside an update includes the partial gradient of the update. On several
    devices, or after an exception inside a micro-batch, a resumed run repeats the update from its first micro-batch.

    Batch norm sees micro-batches, whatever the effective batch size: see `models.GhostBatchNorm2d`.

    Args:
        strategy: the batch strategy: clock -> B.
        schedule: clock -> lr / lr0 of every parameter group, where lr0 is its learning rate at the start of training; None: the learning
            rate is left to whoever sets it, unless the strategy changes it.
        max_micro_batch_size: the most examples that one device processes at once; a memory limit that does not change the result.
        micro_batch_multiple: the size of a ghost batch, in examples, if the model has ghost batch norm: micro-batches are multiples of it.
        seed: the seed of the order of the examples and of the random numbers during training.

    Raises:
        ConfigError: something cannot be combined with a plan: manual optimization, DeepSpeed, stochastic weight averaging with batch norm,
            Lightning's GradientAccumulationScheduler, BatchSizeFinder and LearningRateFinder, an IterableDataset, a learning-rate
            scheduler beside `schedule`.

    Source: on why the weighting is needed, Lightning issue 19987: the mean of means is not the mean if the parts differ in size.
    """

    def __init__(
        self,
        strategy: BatchStrategy,
        schedule: Schedule | None = None,
        *,
        max_micro_batch_size: int | None = None,
        micro_batch_multiple: int = 1,
        seed: int = 0,
    ) -> None:
        if max_micro_batch_size is not None:
            check_count("max_micro_batch_size", max_micro_batch_size, unit="examples", remedy="None for no limit")
        self.strategy = strategy
        self.writes_rate = schedule is not None or strategy.moves_rate
        self.schedule = schedule if schedule is not None else Constant()
        self.max_micro_batch_size, self.micro_batch_multiple = max_micro_batch_size, micro_batch_multiple
        self.seed = seed
        self.loader: PlannedLoader | None = None
        self.examples_before = 0  # this fit: examples seen by the run that it resumes
        self._installation: Installation | None = None
        self._saved: dict[str, Any] = {}
        self._gradients: dict[str, torch.Tensor] | None = None
        self._inside_batch = False
        self._zeroed = False
        self._backwards = 0
        self._steps_before = 0
        self._said_count = False

    @property
    def plan(self) -> Plan:
        """The plan that is carried out; known once training has started."""
        return self._opened.plan

    @property
    def _opened(self) -> PlannedLoader:
        if self.loader is None:
            raise RuntimeError("BatchSizeScheduler has no plan before `trainer.fit`")
        return self.loader

    # -- before training ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        check_compatibility(trainer, pl_module, self.writes_rate)
        check_trainer_limits(trainer.max_steps, trainer.limit_train_batches)
        limit = trainer.limit_train_batches  # read here, because Installation removes the limit from the trainer

        def make_plan(num_examples: int) -> Plan:
            return plan_for_trainer(
                self.schedule,
                self.strategy,
                num_examples,
                optimizer=type(trainer.optimizers[0]).__name__,
                max_epochs=trainer.max_epochs,
                max_steps=trainer.max_steps,
                limit_train_batches=limit,
                world_size=trainer.world_size,
                max_micro_batch_size=self.max_micro_batch_size,
                micro_batch_multiple=self.micro_batch_multiple,
            )

        self._installation = Installation(trainer, make_plan, self.seed, previous=self.loader)
        self.loader = self._installation.loader
        untyped(trainer).callbacks = [self, *(callback for callback in untyped(trainer).callbacks if callback is not self)]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_optimizers(trainer)
        plan = self._opened.open()
        if self._saved and self._saved["num_examples"] != plan.num_examples:
            had = self._saved["num_examples"]
            raise ConfigError("num_examples", plan.num_examples, f"the checkpoint was trained on {had}", "resume on the same data")
        if self._opened.micro_batches_done and (
            self._gradients is None or (self._saved["accumulate_grad_batches"], self._saved["world_size"]) != self._cutting()
        ):
            self._gradients = None
            self._opened.restart_update()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.writes_rate and trainer.lr_scheduler_configs:
            name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            remedy = "give BatchSizeScheduler no schedule, or remove the module's scheduler"
            raise ConfigError("lr_scheduler", name, "the plan sets the learning rate", remedy)
        for group in trainer.optimizers[0].param_groups:
            group.setdefault("initial_lr", group["lr"])
        if self._gradients is not None:
            self._enter(trainer, self._cutting()[0])
            restore_gradient(pl_module, self._gradients)
        self._gradients, self._saved = None, {}
        self.examples_before = self._opened.cursor.examples_seen

    # -- training -------------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        micro = self._micro
        self._inside_batch, self._zeroed, self._backwards, self._steps_before = True, False, 0, trainer.global_step
        if batch_idx != self._opened.batches_before_update + micro.index:
            raise RuntimeError(
                f"Lightning started batch {batch_idx} of the epoch, but the plan has micro-batch {micro.index} of update "
                f"{micro.update.start.step} next"
            )
        self._compare_count(micro)
        if micro.index == 0:
            self._enter(trainer, micro.update.accumulate_grad_batches)
            if self.writes_rate:
                for group in trainer.optimizers[0].param_groups:
                    _write_rate(group, group["initial_lr"] * micro.update.lr_factor)
        seed_random_generators(derive_seed("training", self.seed, micro.update.start.step, micro.index, trainer.global_rank))

    def _compare_count(self, micro: MicroBatch) -> None:
        """Warn, once, if the data set did not give the number of examples that the plan has."""
        given = self._opened.handed_out
        if given != micro.size and not self._said_count:
            self._said_count = True
            warnings.warn(
                f"update {micro.update.start.step}: the data set gave {given} examples for a micro-batch of {micro.size}; "
                "NoiseScaleMonitor logs the real count, but gradients are weighted as planned",
                stacklevel=1,
            )

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._zeroed = True

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        micro, update = self._micro, self._micro.update
        self._backwards += 1
        parts = update.accumulate_grad_batches * trainer.world_size
        if micro.size * parts != update.effective_batch_size:
            loss.mul_(micro.size * parts / update.effective_batch_size)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        micro = self._micro
        # Lightning decides separately whether to zero the gradients and whether to step, so one can be right and the other wrong.
        if self._zeroed != (micro.index == 0) or (trainer.global_step > self._steps_before) != micro.is_last:
            raise RuntimeError(
                f"update {micro.update.start.step}, micro-batch {micro.index} of {micro.update.accumulate_grad_batches}: gradients were "
                f"{'' if self._zeroed else 'not '}zeroed and {trainer.global_step - self._steps_before} steps taken; "
                "another callback or the module changes accumulate_grad_batches or steps the optimizer"
            )
        if self._backwards != 1:
            raise RuntimeError(
                f"update {micro.update.start.step}, micro-batch {micro.index}: {self._backwards} backward passes instead of one; "
                "training_step must return a loss for every batch, and an optimizer that calls its closure again (LBFGS) cannot be planned"
            )
        self._opened.advance()
        self._inside_batch = False

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._installation is not None:
            self._installation.undo(trainer)
            self._installation = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position of the run, in plain values; `on_save_checkpoint` saves the partial gradient of an unfinished update."""
        if self.loader is None:
            return {}
        k, world_size = self._cutting()
        return {
            "loader": self.loader.state(),
            "num_examples": self.loader.plan.num_examples,
            "accumulate_grad_batches": k,
            "world_size": world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._saved = state_dict
        if state_dict:
            self._opened.restore(state_dict["loader"])

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        # After an exception inside a micro-batch its gradient may have been added in part; with several devices each has its own part.
        if self.loader is not None and self.loader.micro_batches_done and not self._inside_batch and trainer.world_size == 1:
            save_gradient(pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._gradients = load_gradient(checkpoint)

    def _cutting(self) -> tuple[int, int]:
        """(k, W) of the current or next update, which decide how its examples are cut into micro-batches."""
        plan = self._opened.plan
        return plan.update_at(self._opened.cursor).accumulate_grad_batches, plan.world_size

    @property
    def _micro(self) -> MicroBatch:
        micro = self._opened.current
        assert micro is not None
        return micro

    def _enter(self, trainer: pl.Trainer, k: int) -> None:
        trainer.accumulate_grad_batches = Window(k, self._opened.batches_before_update)


def _write_rate(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr

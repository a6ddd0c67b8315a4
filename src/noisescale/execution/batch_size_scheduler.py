"""Carry out a plan exactly, with `Trainer.accumulate_grad_batches` and automatic optimization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from noisescale.errors import check_count
from noisescale.execution.batch_norm import RunningStatistics
from noisescale.execution.checkpoint import in_saving_order
from noisescale.execution.compatibility import check_compatibility, check_optimizers, check_schedulers, untyped
from noisescale.execution.cut_check import warn_about_cuts
from noisescale.execution.guards import Guards
from noisescale.execution.horizons import warn_about_horizons
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.loss_factors import LossFactors
from noisescale.execution.micro_batch_limit import MicroBatchLimit
from noisescale.execution.parameter_groups import GroupRates
from noisescale.execution.planned_fit import PlannedFit
from noisescale.execution.planning import Planning
from noisescale.execution.random_generators import seed_random_generators
from noisescale.execution.resumption import Resumption, position, save_unfinished
from noisescale.execution.sampling import chosen_sampling
from noisescale.execution.tuner import remove_searches
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.schedules import Constant, Schedule
from noisescale.seeding import derive_seed

__all__ = ["BatchSizeScheduler"]


class BatchSizeScheduler(LeanCallback):
    """Train update k with exactly the examples, the micro-batches and the learning rate that the plan has for it.

    The gradient of each update is (1/B) sum over its B examples, because the loss of each micro-batch is multiplied with its factor, see
    `LossFactors`. `training_step` must return a mean over the examples of its batch; for a mean over anything else, `weight` gives its
    denominator. Before training, it warns if the gradient of a batch depends on how the batch is cut. The random number generators (for
    dropout) are seeded for each micro-batch with (seed, step, j, rank), so a resumed run draws the same numbers.

    It replaces the train DataLoader of the datamodule, the module or `trainer.fit`, and keeps its dataset, collate_fn and workers; the
    batch size given there is not used. It moves to the front of the trainer's callbacks, so that its state is up to date when another
    callback saves a checkpoint. On one device, a checkpoint inside an update includes the partial gradient of the update. On several
    devices, or after an exception inside a micro-batch, a resumed run repeats the update from its first micro-batch.

    Batch norm sees micro-batches, whatever the effective batch size: see `models.GhostBatchNorm2d`. Its running statistics become the
    mean over all devices at the end of each update.

    Args:
        strategy: the batch strategy: clock -> B.
        schedule: clock -> lr / lr0 of every parameter group, where lr0 is its learning rate at the start of training, or that it is added
            with later, see `GroupRates`; None: the learning rate is left to whoever sets it, unless the strategy changes it.
        max_micro_batch_size: the most examples that one device processes at once; a memory limit that does not change the result. "auto":
            the most that fit, found before the first update; a checkpoint has it, so that a run that goes on does not search again.
        micro_batch_margin: for "auto", the share of the largest micro-batch that fits which is left free, in [0, 1).
        micro_batch_multiple: micro-batches are multiples of it, in examples, so that ghost batch norm sees the same examples together.
            None: the `ghost_batch_size` of the module's layers, if there are any.
        min_micro_batch_size: the fewest examples of a forward pass; None: 2 if the module has a batch norm in training, otherwise 1. Give 1
            if batch norm sees more than one value per channel of each example, as in large images, and may normalise one example by itself.
        seed: the seed of the order of the examples and of the random numbers during training.
        sampling_weights: one number >= 0 for each example, how likely it is to be drawn; 0: never. None: as the DataLoader draws.
        replacement: whether a pass draws with replacement, see `Sampling`; None: as torch's samplers do, True with sampling_weights,
            otherwise as the DataLoader draws. With replacement the noise scale is g = lr N/B.
        weight: batch, as `training_step` gets it -> w, the denominator of its loss: the number of target tokens, the sum of the class
            weights. The gradient of an update is then sum(w_j grad_j) / sum(w_j), see `MicroBatchWeights`; B stays in examples. None: the
            loss is a mean over examples.
        split_every: n: every n-th update is cut in two where it would be a single piece, see `Plan`; it is what `GradientNoiseScale` needs.
            None: no update is cut for that.
        check_cuts: whether to check before training, on a copy of the module, that the gradient of a batch does not depend on how the
            batch is cut; only if the plan accumulates. Training is bitwise the same with it and without it, unless the code keeps a
            state outside of the module and the trainer: in the data set, the datamodule, a class or a global variable.

    Raises:
        ConfigError: something cannot be combined with a plan: manual optimization, DeepSpeed, stochastic weight averaging with batch norm,
            Lightning's GradientAccumulationScheduler and Tuner, an IterableDataset, a learning-rate scheduler beside `schedule`, a
            checkpoint from inside an epoch of a training without this callback; an update that leaves batch norm with a single example.

    Source: on why the weighting is needed, Lightning issue 19987: the mean of means is not the mean if the parts differ in size.
    """

    def __init__(
        self,
        strategy: BatchStrategy,
        schedule: Schedule | None = None,
        *,
        max_micro_batch_size: int | str | None = None,
        micro_batch_margin: float = 0.1,
        micro_batch_multiple: int | None = None,
        min_micro_batch_size: int | None = None,
        seed: int = 0,
        sampling_weights: Sequence[float] | torch.Tensor | None = None,
        replacement: bool | None = None,
        weight: Callable[[Any], Any] | None = None,
        split_every: int | None = None,
        check_cuts: bool = True,
    ) -> None:
        self.strategy, self.schedule = strategy, schedule if schedule is not None else Constant()
        self.limit = MicroBatchLimit(max_micro_batch_size, micro_batch_margin)
        self._planning = Planning(strategy, self.schedule, self.limit, micro_batch_multiple, min_micro_batch_size, split_every)
        self.writes_rate = schedule is not None or strategy.moves_rate
        check_count("seed", seed, at_least=0)
        self.seed, self.check_cuts = seed, check_cuts
        self.sampling = chosen_sampling(sampling_weights, replacement)
        self._factors = LossFactors(weight)
        if weight is None:
            self.on_before_optimizer_step = None  # type: ignore[method-assign,assignment]  # so that it costs nothing
        self.loader: PlannedLoader | None = None
        self.examples_before = 0  # this fit: examples seen by the run that it resumes
        self._fit: PlannedFit | None = None  # the last one that has begun
        self._resumed, self._has_optimizer = Resumption(), False
        self._guards, self._rates = Guards(), GroupRates()
        self._norms = RunningStatistics(torch.nn.Module())

    @property
    def plan(self) -> Plan:
        """The plan that is carried out; known from `configure_optimizers` on."""
        return self._opened.plan

    def measured(self, name: str, value: float) -> None:
        """Let the plan go by a measurement, if it does: a callback calls it that has the name in `provides`."""
        if self._fit is not None:
            self._fit.decisions.measured[name] = value

    @property
    def weight(self) -> Callable[[Any], float] | None:
        """Batch -> the denominator of its loss, checked; None: its number of examples."""
        return self._factors.weight

    @property
    def loss_factor(self) -> float:
        """What the loss of the current micro-batch is multiplied by, before Lightning divides it by k."""
        return self._factors.current

    @property
    def restored_metrics(self) -> dict[str, torch.Tensor]:
        """The metrics that callbacks saw last before the checkpoint was saved, until the training goes on from it."""
        return self._resumed.metrics

    @property
    def _run(self) -> PlannedFit:
        assert self._fit is not None
        return self._fit

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
        make_plan = self._planning.for_trainer(trainer, pl_module, lambda: self._has_optimizer)
        self._has_optimizer = False  # an earlier `fit` may have left it
        self.limit.start()
        self._rates = GroupRates.of_trainer(trainer)
        # It may have been used in another trainer.
        previous = self.loader if self.loader is not None and self.loader.cursor.step == trainer.global_step else None
        self._resumed = Resumption.of_trainer(trainer, previous)
        self._fit = PlannedFit(trainer, make_plan, self.seed, previous, self.sampling)
        self.loader = self._fit.loader
        untyped(trainer).callbacks = in_saving_order([self, *(each for each in untyped(trainer).callbacks if each is not self)])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._has_optimizer = True
        check_optimizers(trainer)
        self._opened.open()
        self.limit.find(trainer, pl_module, self._opened)
        self._run.say(trainer)
        self._resumed.move(self._opened)  # again, because the trainer's epoch was not restored yet if Lightning has asked for the length
        self._run.check(trainer)
        if self.weight is not None:
            self._opened.weight = 0.0  # from here on a number, so that other callbacks know
        self._resumed.find_position(self._opened, self.seed, self._factors.weights)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_schedulers(trainer, self.writes_rate)
        warn_about_horizons(trainer.lr_scheduler_configs, self.plan)
        self._rates.start(trainer.optimizers[0], self._resumed.state.get("bases", ()))
        if self._fit is not None:
            self._fit.length_is_known()
        if self.check_cuts:
            warn_about_cuts(trainer, pl_module, self._opened, self.weight)
        self._norms = RunningStatistics(pl_module)
        if self._fit is not None and self._resumed.gradients is not None:
            self._fit.start_update(trainer, self.plan.update_at(self._opened.cursor).accumulate_grad_batches)
        self._resumed.give_back(trainer, pl_module, self._norms)
        self._resumed = Resumption()
        self.examples_before = self._opened.cursor.examples_seen
        self._opened.begin()

    # -- training -------------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        micro = self._opened.micro
        self._guards.start(micro, self._opened.batches_before_update + micro.index, batch_idx, trainer.global_step)
        self._norms.before(micro)
        if self.weight is None:
            self._guards.compare_count(micro, self._opened.handed_out)
        if micro.index == 0:
            self._run.start_update(trainer, micro.update.accumulate_grad_batches)
            if self.writes_rate:
                self._rates.write(trainer.optimizers[0], micro.update.lr_factor)
        self._opened.weight = self._factors.take(batch, micro, trainer)
        seed_random_generators(derive_seed("training", self.seed, micro.update.start.step, micro.index, trainer.global_rank))

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._guards.zero_grad()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self._guards.backward()
        self._factors.scale(loss, self._opened.weight, self._opened.micro, trainer)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        # Under mixed precision the gradients are unscaled by now; they are not clipped yet.
        self._factors.finish_update(self._opened.micro.update, trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        micro = self._opened.micro
        self._guards.check(micro, trainer.global_step)
        self._factors.listen_again()
        self._norms.after(micro, self._opened.plan, trainer)
        self._opened.advance()
        self._guards.inside_batch = False
        if micro.is_last:
            self._run.end_update()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._fit is not None:
            self._fit.start_validation()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._fit is not None:
            self._fit.end_validation(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._run.end_epoch(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._opened.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._fit is not None:
            self._fit.undo(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._factors.listen_again()
        self.note_step(trainer)
        self.teardown(trainer, pl_module, "fit")
        remove_searches(trainer)

    @property
    def inside_micro_batch(self) -> bool:
        """Whether a micro-batch has been started that is not done."""
        return self._guards.inside_batch

    def note_step(self, trainer: pl.Trainer) -> None:
        """After an exception: count an update as done if its optimizer has stepped, even if the hooks behind that were not called."""
        if self._guards.inside_batch and self._guards.has_stepped(trainer.global_step):
            self._opened.advance()
            self._guards.inside_batch = False

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position of the run, in plain values; `on_save_checkpoint` saves the partial gradient of an unfinished update."""
        if self._fit is None:
            return {}
        here = position(self._fit.loader, self.seed, self._factors.weights)
        return {**here, "bases": self._rates.bases, "decisions": self._fit.decisions.state(), **self.limit.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, in a `fit`; the weights of a checkpoint can also be tested and validated."""
        if self._fit is not None and self._fit.active:
            self._resumed.state = state_dict
            self.limit.restore(state_dict)
            self._opened.restore(state_dict["loader"])
            if state_dict.get("decisions"):
                self._fit.decisions.restore(state_dict["decisions"])
            if self._has_optimizer:  # some strategies, such as FSDP, restore after on_fit_start
                self._resumed.find_position(self._opened, self.seed, self._factors.weights)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._fit is not None:
            save_unfinished(checkpoint, self._fit.loader, self._norms, trainer, inside_batch=self._guards.inside_batch)
            self._fit.settle(checkpoint)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._fit is None or not self._fit.active:
            return
        self._resumed = Resumption.of_checkpoint(checkpoint, self.state_key, trainer.ckpt_path)
        if self._has_optimizer:  # some strategies, such as FSDP, restore after on_fit_start
            self._resumed.move(self._opened)

"""Carry out a plan exactly, with `Trainer.accumulate_grad_batches` and automatic optimization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.hooks import RemovableHandle

from noisescale.errors import ConfigError, check_count
from noisescale.execution.batch_norm import RunningStatistics, ghost_batch_size, min_micro_batch_size
from noisescale.execution.checkpoint import in_saving_order
from noisescale.execution.compatibility import check_compatibility, check_optimizers, torch_name, untyped
from noisescale.execution.cut_check import warn_about_cuts
from noisescale.execution.decisions import Decisions
from noisescale.execution.guards import Guards
from noisescale.execution.horizons import horizon_warnings
from noisescale.execution.installation import Installation
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.micro_batch import MicroBatch
from noisescale.execution.micro_batch_limit import MicroBatchLimit
from noisescale.execution.parameter_groups import GroupRates
from noisescale.execution.partial_gradient import save_gradient
from noisescale.execution.random_generators import seed_random_generators
from noisescale.execution.resumption import Resumption, position
from noisescale.execution.sampling import chosen_sampling
from noisescale.execution.stops import Stops
from noisescale.execution.tuner import remove_searches
from noisescale.execution.unplanned import Unplanned
from noisescale.execution.validations import check_interval
from noisescale.execution.weighting import MicroBatchWeights, without_gradient
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
    `training_step` must return a mean over the examples of its batch; for a mean over anything else, `weight` gives its denominator. Before
    training, it warns if the gradient of a batch depends on how the batch is cut. The random number generators (for dropout) are
    seeded for each micro-batch with (seed, step, j, rank), so a resumed run draws the same numbers.

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
        for name, value in (("micro_batch_multiple", micro_batch_multiple), ("min_micro_batch_size", min_micro_batch_size)):
            if value is not None:
                check_count(name, value, unit="examples", remedy="None for what the module needs")
        if split_every is not None:
            check_count("split_every", split_every, unit="updates", remedy="None for none")
        check_count("seed", seed, at_least=0)
        if not isinstance(strategy, BatchStrategy):
            raise ConfigError("strategy", strategy, "must be a batch strategy", "for example plans.Fixed(size=64)")
        self.strategy = strategy
        self.writes_rate = schedule is not None or strategy.moves_rate
        self.schedule = schedule if schedule is not None else Constant()
        self.limit = MicroBatchLimit(max_micro_batch_size, micro_batch_margin)
        self.micro_batch_multiple = micro_batch_multiple
        self.min_micro_batch_size, self.split_every = min_micro_batch_size, split_every
        self.seed = seed
        self.sampling = chosen_sampling(sampling_weights, replacement)
        self.check_cuts = check_cuts
        self._weights = None if weight is None else MicroBatchWeights(weight)
        if weight is None:
            self.on_before_optimizer_step = None  # type: ignore[method-assign,assignment]  # so that it costs nothing
        self.loader: PlannedLoader | None = None
        self.loss_factor = 1.0  # what the loss of the current micro-batch is multiplied by, before Lightning divides it by k
        self.examples_before = 0  # this fit: examples seen by the run that it resumes
        self._installation: Installation | None = None
        self._stops: Stops | None = None
        self._decisions: Decisions | None = None
        self._resumed = Resumption()
        self._norms: RunningStatistics | None = None
        self._guards = Guards()
        self._silenced: list[RemovableHandle] = []
        self._rates = GroupRates()
        self._has_optimizer = False
        self._unplanned: Unplanned | None = None

    @property
    def plan(self) -> Plan:
        """The plan that is carried out; known from `configure_optimizers` on."""
        return self._opened.plan

    def measured(self, name: str, value: float) -> None:
        """Let the plan go by a measurement, if it does: a callback calls it that has the name in `provides`."""
        if self._decisions is not None:
            self._decisions.measured[name] = value

    @property
    def weight(self) -> Callable[[Any], float] | None:
        """Batch -> the denominator of its loss, checked; None: its number of examples."""
        return None if self._weights is None else self._weights.of

    @property
    def restored_metrics(self) -> dict[str, torch.Tensor]:
        """The metrics that callbacks saw last before the checkpoint was saved, until the training goes on from it."""
        return self._resumed.metrics

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
        self._resumed, self._has_optimizer = Resumption(), False  # an earlier `fit` may have left them
        self.limit.start()
        self._rates = GroupRates(relative=any(isinstance(callback, BaseFinetuning) for callback in untyped(trainer).callbacks))

        def make_plan(num_examples: int) -> Plan:
            return plan_for_trainer(
                self.schedule,
                self.strategy,
                num_examples,
                optimizer=torch_name(type(trainer.optimizers[0])) if self._has_optimizer else None,
                max_epochs=trainer.max_epochs,
                max_steps=trainer.max_steps,
                limit_train_batches=limit,
                world_size=trainer.world_size,
                max_micro_batch_size=self.limit.value,
                micro_batch_multiple=self.micro_batch_multiple or ghost_batch_size(pl_module),
                # here and not in `setup`, because the module may build its layers after that
                min_micro_batch_size=self.min_micro_batch_size or min_micro_batch_size(pl_module, trainer.world_size),
                split_every=self.split_every,
            )

        # It may have been used in another trainer.
        previous = self.loader if self.loader is not None and self.loader.cursor.step == trainer.global_step else None
        self._unplanned = Unplanned.of_trainer(trainer) if previous is None else None
        self._installation = Installation(trainer, make_plan, self.seed, previous=previous, sampling=self.sampling)
        self.loader = self._installation.loader
        self._stops, self._decisions = Stops(trainer, self.loader), Decisions(self.loader)
        untyped(trainer).callbacks = in_saving_order([self, *(each for each in untyped(trainer).callbacks if each is not self)])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._has_optimizer = True
        check_optimizers(trainer)
        self._opened.open()
        self.limit.find(trainer, pl_module, self._opened)
        if self._installation is not None:
            self._installation.forget_length(trainer)
            for note in self._installation.notes(trainer.optimizers[0]):
                rank_zero_warn(note)
        if self._resumed.state:  # again, because the trainer's epoch was not restored yet if Lightning has asked for the length before
            self._opened.restore(self._resumed.state["loader"])
        if self._unplanned is not None:
            self._unplanned.go_on(self._opened)
        check_interval(trainer, self._opened)
        if self._decisions is not None:
            self._decisions.check(trainer)
        if self._weights is not None:
            self._opened.weight = 0.0  # from here on a number, so that other callbacks know
        self._resumed.find_position(self._opened, self.seed, self._weights)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.writes_rate and trainer.lr_scheduler_configs:
            name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            remedy = "give BatchSizeScheduler no schedule, or remove the module's scheduler"
            raise ConfigError("lr_scheduler", name, "the plan sets the learning rate", remedy)
        for note in horizon_warnings(trainer.lr_scheduler_configs, self.plan):
            rank_zero_warn(note)
        self._rates.start(trainer.optimizers[0], self._resumed.state.get("bases", ()))
        if self._installation is not None:
            self._installation.length_is_known()
        if self.check_cuts:
            warn_about_cuts(trainer, pl_module, self._opened, None if self._weights is None else self._weights.of)
        self._norms = RunningStatistics(pl_module)
        if self._resumed.gradients is not None:
            self._enter(trainer, self.plan.update_at(self._opened.cursor).accumulate_grad_batches)
        self._resumed.give_back(trainer, pl_module, self._norms)
        self._resumed = Resumption()
        self.examples_before = self._opened.cursor.examples_seen
        self._opened.begin()

    # -- training -------------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        micro = self._micro
        self._guards.start(micro, self._opened.batches_before_update + micro.index, batch_idx, trainer.global_step)
        assert self._norms is not None
        self._norms.before(micro)
        if self._weights is None:
            self._guards.compare_count(micro, self._opened.handed_out)
        if micro.index == 0:
            self._enter(trainer, micro.update.accumulate_grad_batches)
            if self._weights is not None:
                self._weights.start_update()
            if self.writes_rate:
                self._rates.write(trainer.optimizers[0], micro.update.lr_factor)
        if self._weights is not None:
            self._opened.weight = self._weights.take(batch, micro.size, micro.update.effective_batch_size, trainer)
        seed_random_generators(derive_seed("training", self.seed, micro.update.start.step, micro.index, trainer.global_rank))

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._guards.zero_grad()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        micro, update = self._micro, self._micro.update
        self._guards.backward()
        parts = update.accumulate_grad_batches * trainer.world_size
        if self._opened.weight is not None:
            assert self._weights is not None
            factor = self._weights.factor(self._opened.weight, update.accumulate_grad_batches)
        else:
            factor = micro.size * parts / update.effective_batch_size
        self.loss_factor = factor
        if factor == 0.0:
            self._silenced = without_gradient(_parameters(trainer))
        elif factor != 1.0:
            loss.mul_(factor)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        # Under mixed precision the gradients are unscaled by now; they are not clipped yet.
        if self._weights is not None:
            self._weights.finish_update(_parameters(trainer), self._micro.update, trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        micro = self._micro
        self._guards.check(micro, trainer.global_step)
        self._listen_again()
        assert self._norms is not None
        self._norms.after(micro, self._opened.plan, trainer)
        self._opened.advance()
        self._guards.inside_batch = False
        if micro.is_last and self._stops is not None:
            self._stops.end_update()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stops is not None:
            self._stops.start_validation()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stops is not None:
            self._stops.end_validation()
        if self._decisions is not None:
            self._decisions.end_validation(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stops is not None:
            self._stops.end_epoch()
        if self._decisions is not None:
            self._decisions.end_epoch(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._opened.close()

    def _listen_again(self) -> None:
        """Undo `without_gradient`."""
        for handle in self._silenced:
            handle.remove()
        self._silenced = []

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._installation is not None and self._stops is not None:
            self._stops.undo()
            self._installation.undo(trainer)
            self._installation = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._listen_again()
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
        if self.loader is None:
            return {}
        decisions = {} if self._decisions is None else self._decisions.state()
        here = position(self.loader, self.seed, self._weights)
        return {**here, "bases": self._rates.bases, "decisions": decisions, **self.limit.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, in a `fit`; the weights of a checkpoint can also be tested and validated."""
        if self._installation is not None:
            self._resumed.state = state_dict
            self.limit.restore(state_dict)
            self._opened.restore(state_dict["loader"])
            if self._decisions is not None and state_dict.get("decisions"):
                self._decisions.restore(state_dict["decisions"])
            if self._has_optimizer:  # some strategies, such as FSDP, restore after on_fit_start
                self._resumed.find_position(self._opened, self.seed, self._weights)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        # After an exception inside a micro-batch its gradient may have been added in part; with several devices each has its own part.
        if self.loader is not None and self.loader.micro_batches_done and not self._guards.inside_batch and trainer.world_size == 1:
            save_gradient(pl_module, checkpoint)
        if self._norms is not None and self.loader is not None and (self.loader.micro_batches_done or self._guards.inside_batch):
            self._norms.save(checkpoint)
        if self._stops is not None:
            self._stops.settle(checkpoint)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._installation is None:  # not in a `fit`
            return
        self._resumed = Resumption.of_checkpoint(checkpoint)
        self._unplanned = Unplanned.of_checkpoint(checkpoint, self.state_key, trainer.ckpt_path)
        if self._unplanned is not None and self._has_optimizer:  # some strategies, such as FSDP, restore after on_fit_start
            self._unplanned.go_on(self._opened)

    @property
    def _micro(self) -> MicroBatch:
        micro = self._opened.current
        assert micro is not None
        return micro

    def _enter(self, trainer: pl.Trainer, k: int) -> None:
        count = self._installation.count if self._installation is not None else None
        trainer.accumulate_grad_batches = Window(k, self._opened.batches_before_update, count)
        if self._stops is not None:
            self._stops.start_update()


def _parameters(trainer: pl.Trainer) -> list[torch.nn.Parameter]:
    """What the optimizer trains, which need not be in the module."""
    return [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]

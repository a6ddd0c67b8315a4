"""What a checkpoint says of the run that goes on from it, and what it is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from noisescale.errors import ConfigError
from noisescale.execution.batch_norm import RunningStatistics
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.partial_gradient import load_gradient, restore_gradient, save_gradient
from noisescale.execution.stops import load_metrics, plateau_step_left, take_plateau_step
from noisescale.execution.unplanned import Unplanned
from noisescale.execution.weighting import MicroBatchWeights
from noisescale.seeding import derive_seed

__all__ = ["Resumption", "position", "save_unfinished"]


@dataclass
class Resumption:
    """What was loaded, from then until the first micro-batch; empty in a run that starts anew.

    Attributes:
        state: the `state_dict` of the BatchSizeScheduler that was saved, see `position`.
        gradients: the partial gradient of an unfinished update; None if there is none, or if it does not fit this run.
        metrics: the metrics that callbacks saw last.
        statistics: the running statistics of batch norm before the unfinished update.
        plateau: the interval whose ReduceLROnPlateau has its step left to take, see `Stops.settle`; None: none.
        unplanned: what was trained without a plan; None: nothing.
    """

    state: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Tensor] | None = None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    plateau: str | None = None
    unplanned: Unplanned | None = None

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any], callback: str, path: Any) -> Resumption:
        """All but `state`, which Lightning hands over separately; `callback` and `path` as in `Unplanned.of_checkpoint`."""
        statistics, unplanned = RunningStatistics.load(checkpoint), Unplanned.of_checkpoint(checkpoint, callback, path)
        return cls({}, load_gradient(checkpoint), load_metrics(checkpoint), statistics, plateau_step_left(checkpoint), unplanned)

    @classmethod
    def of_trainer(cls, trainer: pl.Trainer, previous: PlannedLoader | None) -> Resumption:
        """What is known without a checkpoint: what the trainer has done without a plan, unless `previous` is the loader of a plan."""
        return cls(unplanned=Unplanned.of_trainer(trainer) if previous is None else None)

    def move(self, loader: PlannedLoader) -> None:
        """Move `loader` to where the run was saved, or to the end of what was trained without a plan.

        Raises:
            ConfigError: as in `Unplanned.go_on`.
        """
        if self.state:
            loader.restore(self.state["loader"])
        if self.unplanned is not None:
            self.unplanned.go_on(loader)

    def find_position(self, loader: PlannedLoader, seed: int, weights: MicroBatchWeights | None) -> None:
        """Go on where the run was saved, after a check that it had the same data and the same order of them.

        An unfinished update is repeated from its first micro-batch if there is no gradient of it that fits.

        Raises:
            ConfigError: another number of examples, or another seed.
        """
        saved = self.state
        lacking = ", ".join(key for key in ("seed", "sampling", "pieces") if saved and key not in saved)
        if lacking:
            problem = f"the checkpoint does not say it ({lacking}), because another version of noisescale saved it"
            raise ConfigError("ckpt_path", "resuming", problem, "resume with that version, or start anew")
        if saved and saved["num_examples"] != loader.plan.num_examples:
            problem = f"the checkpoint was trained on {saved['num_examples']}"
            raise ConfigError("num_examples", loader.plan.num_examples, problem, "resume on the same data")
        if saved and saved["seed"] != seed:
            problem = f"the checkpoint was trained with seed={saved['seed']}, which decides the order of the examples"
            raise ConfigError("seed", seed, problem, "resume with the same")
        if saved and saved["sampling"] != loader.sampling.identity():
            problem = "the checkpoint was trained with other weights, replacement or shuffle, which decide the order of the examples"
            raise ConfigError("sampling_weights", "resuming", problem, "resume with the same")
        weighted = saved.get("weights")
        if loader.micro_batches_done and (
            self.gradients is None or saved["pieces"] != _pieces(loader) or (weighted is None) != (weights is None)
        ):
            self.gradients = None
            loader.restart_update()
        if weights is not None and weighted is not None:
            weights.restore(weighted)

    def give_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule, norms: RunningStatistics) -> None:
        """Set the gradients, the running statistics and the metrics to what they were, and take the step that was left."""
        if self.gradients is not None:
            restore_gradient(pl_module, self.gradients)
        else:  # the update starts from its first micro-batch, although the run that was saved had begun it
            norms.restore(self.statistics)
        for name, value in self.metrics.items():
            trainer.callback_metrics[name] = value.to(pl_module.device)
        if self.plateau is not None:
            take_plateau_step(trainer, self.plateau)


def position(loader: PlannedLoader, seed: int, weights: MicroBatchWeights | None) -> dict[str, Any]:
    """Where a run is in its plan, in plain values, and what a run that goes on from there must have in common with it."""
    return {
        "loader": loader.state(),
        "num_examples": loader.plan.num_examples,
        "seed": seed,
        "sampling": loader.sampling.identity(),
        "pieces": _pieces(loader),
        **({} if weights is None else {"weights": weights.state()}),
    }


def save_unfinished(
    checkpoint: dict[str, Any], loader: PlannedLoader, norms: RunningStatistics, trainer: pl.Trainer, *, inside_batch: bool
) -> None:
    """Put the gradient of an unfinished update, and the running statistics before it, into a checkpoint.

    No gradient if a micro-batch has been started that is not done, because it may have been added in part; nor with several devices, each
    of which has its own.
    """
    if loader.micro_batches_done and not inside_batch and trainer.world_size == 1:
        save_gradient(trainer.lightning_module, checkpoint)
    if loader.micro_batches_done or inside_batch:
        norms.save(checkpoint)


def _pieces(loader: PlannedLoader) -> int:
    """A number that says which examples the micro-batches of an unfinished update have, so that its gradient is not used for others."""
    plan, cursor = loader.plan, loader.cursor
    if not loader.micro_batches_done or plan.finished(cursor):
        return 0
    update = plan.update_at(cursor)
    pieces = [size for rank in range(plan.world_size) for _, size in plan.pieces(update, rank)]
    examples = loader.indices(update.start.position, update.effective_batch_size)
    return derive_seed("pieces", plan.world_size, *pieces, *examples.tolist())

"""A fork: a checkpoint from which a training goes on with other choices, each of which it names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noisescale.errors import ConfigError, check_count, check_number
from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.checkpoint_io import SafeCheckpointIO
from noisescale.execution.parameter_groups import BASE
from noisescale.execution.same_run import PlanOfRun, SameRun

__all__ = ["Fork", "ForkedCheckpointIO", "Trunk", "forked", "trunk_of"]

_SCHEDULER, _SAME_RUN = BatchSizeScheduler.__qualname__, SameRun.__qualname__


@dataclass(frozen=True)
class Fork:
    """What a fork changes in a checkpoint; everything else is compared as in a run that is resumed, and refused if it differs.

    The weights, the state of the optimizer with its momentum, and the position in the data stay as they are. The learning rate of each
    parameter group becomes the one that it has in the checkpoint times `rate`, whatever schedule it has come from, and a constant schedule
    holds it there. The batch size is that of the `BatchSizeScheduler` that goes on.

    Args:
        rate: lr of the fork / lr in the checkpoint, above 0.
        seed: the seed of the order of the examples and of all random numbers from here on; None: that of the checkpoint, so that a fork
            that changes nothing is the training that goes on, bit for bit.
        changes: dotted key -> value of the choices that `SameRun` compares and that the fork changes, such as {"batch.size": 128}.

    Not to be confused with a run that is resumed, which is the same run, nor with `weights_from`, which starts a new optimizer.
    """

    rate: float = 1.0
    seed: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("rate", self.rate, above=0)
        if self.seed is not None:
            check_count("seed", self.seed, at_least=0)

    def guard(self, same_run: SameRun) -> SameRun:
        """`same_run`, which compares the fork with the run that it forks from: equal but for `changes`."""
        plan = same_run.plan
        if plan is None:
            return SameRun({**same_run.choices, **self.changes})
        mine = {key: value for key, value in self.changes.items() if key in same_run.choices}
        others = {key: value for key, value in self.changes.items() if key not in same_run.choices}
        of_plan = PlanOfRun({**plan.choices, **others}, plan.options, plan.changes, plan.said)
        return SameRun({**same_run.choices, **mine}, of_plan)


def forked(checkpoint: Mapping[str, Any], fork: Fork, path: Any = "", guarded: bool = True) -> dict[str, Any]:
    """The checkpoint that a fork goes on from; `checkpoint` itself stays as it is.

    It has the states of the `BatchSizeScheduler` and of `SameRun` only: what other callbacks have counted belongs to the run that it
    forks from.

    Args:
        checkpoint: as Lightning saves it, at the end of an update.
        fork: what it changes.
        path: where it is from, for an error.
        guarded: whether `SameRun` goes on from it, too; otherwise its state is left out.

    Raises:
        ConfigError: it was saved without a plan or inside an update; a scheduler of the module sets its learning rate; it has the average
            of the weights in place of the weights; it has only weights.
    """
    callbacks = dict(checkpoint.get("callbacks") or {})
    state = callbacks.get(_SCHEDULER)
    if not state or "optimizer_states" not in checkpoint:
        problem = "has no position in a plan to branch from" if "optimizer_states" in checkpoint else "has only weights"
        raise ConfigError("ckpt_path", path, problem, "give a checkpoint of a training with BatchSizeScheduler")
    if state["loader"]["micro_batches_done"]:
        raise ConfigError("ckpt_path", path, "was saved inside an update", "give one that was saved between two updates")
    if checkpoint.get("lr_schedulers"):
        problem = "has a learning-rate scheduler of the module, which would move the rate of a branch"
        raise ConfigError("ckpt_path", path, problem, "give the schedule to the plan instead")
    if "averaging_state" in checkpoint or "current_model_state" in checkpoint:
        raise ConfigError("ckpt_path", path, "has the average of the weights in their place", "train without averaging")
    optimizers = [_with_rates(optimizer, fork.rate) for optimizer in checkpoint["optimizer_states"]]
    seed = state["seed"] if fork.seed is None else fork.seed
    kept = {_SCHEDULER: {**state, "seed": seed, "bases": [group[BASE] for group in optimizers[0]["param_groups"]]}}
    if guarded and callbacks.get(_SAME_RUN):
        kept[_SAME_RUN] = _with_changes(callbacks[_SAME_RUN], fork.changes)
    return {**checkpoint, "callbacks": kept, "optimizer_states": optimizers}


def _with_rates(optimizer: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """The state of an optimizer, with new rates, which are the bases of a constant schedule."""
    groups = []
    for group in optimizer["param_groups"]:
        lr = group["lr"] * rate  # which may be a tensor
        groups.append({**group, "lr": lr, BASE: float(lr)})
    return {**optimizer, "param_groups": groups}


def _with_changes(saved: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What `SameRun` has saved, with the choices that a fork changes: those that the run has compared by itself, then those of its plan."""
    mine = {key: value for key, value in changes.items() if key in saved["choices"] or "plan" not in saved}
    state = {**saved, "choices": {**saved["choices"], **mine}}
    if "plan" in saved:
        others = {key: value for key, value in changes.items() if key not in saved["choices"]}
        state["plan"] = {**saved["plan"], "choices": {**saved["plan"]["choices"], **others}}
    return state


class ForkedCheckpointIO(SafeCheckpointIO):
    """Reads every checkpoint as the one that a fork goes on from: `Trainer(plugins=[ForkedCheckpointIO(fork)])`."""

    def __init__(self, fork: Fork, guarded: bool = True) -> None:
        super().__init__()
        self.fork, self.guarded = fork, guarded

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return forked(super().load_checkpoint(path, *args, **kwargs), self.fork, path, self.guarded)


@dataclass(frozen=True)
class Trunk:
    """Where a checkpoint is in its training.

    Args:
        step: updates done.
        epoch: the clock, examples seen / N, a real number.
        num_examples: N.
        seed: the seed of the training.
        lr: the learning rate of the first parameter group.
        momentum: its momentum; 0 if it has none.
    """

    step: int
    epoch: float
    num_examples: int
    seed: int
    lr: float
    momentum: float


def trunk_of(checkpoint: Mapping[str, Any], path: Any = "") -> Trunk:
    """Where a checkpoint is.

    Raises:
        ConfigError: nothing can fork from it, see `forked`.
    """
    whole = forked(checkpoint, Fork(), path)
    state, group = whole["callbacks"][_SCHEDULER], whole["optimizer_states"][0]["param_groups"][0]
    cursor, n, lr = state["loader"]["cursor"], state["num_examples"], float(group["lr"])
    if not (math.isfinite(lr) and lr > 0):
        raise ConfigError("ckpt_path", path, f"has a learning rate of {lr:g}, at which nothing is trained", "branch earlier")
    return Trunk(cursor["step"], cursor["position"] / n, n, state["seed"], lr, float(group.get("momentum") or 0.0))

"""Train the branches of a training: from its checkpoints, with several batch sizes, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.checkpoint_io import SafeCheckpointIO, whole_checkpoint
from noisescale.execution.compatibility import torch_name
from noisescale.execution.fork import Fork, ForkedCheckpointIO, Trunk, trunk_of
from noisescale.execution.lean import LeanCallback
from noisescale.execution.save_points import SavePoints
from noisescale.measures.branches import PARTS, Arm, Losses
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.plans.strategies import Fixed
from noisescale.schedules import Constant, warmup_and_rest
from noisescale.seeding import derive_seed
from noisescale.studies.training import Training

__all__ = ["COLUMNS", "BranchRow", "Point", "grow_trunk", "mean_seconds", "probe_point", "read_trunk", "size_at", "train_branch"]


_KINDS: dict[str, Any] = {"int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Point:
    """A checkpoint from which branches begin: a row of points.csv.

    Args:
        point: its number, from 0.
        step, epoch: when it was saved: updates, and examples seen / N.
        num_examples: N.
        size, lr: B and the learning rate of the training there.
        examples: of each branch.
        optimizer: its class name.
        loss: at the checkpoint, on the fixed examples.
        trace, square: tr(Sigma) and |G|^2 there, see `measures.fixed_loss.gradient_noise`.
        smallest: the fewest examples of an update, 2 with batch norm.
    """

    point: int
    step: int
    epoch: float
    num_examples: int
    size: int
    lr: float
    examples: int
    optimizer: str
    loss: float
    trace: float
    square: float
    smallest: int

    @property
    def noise_scale(self) -> float:
        """B_simple = tr(Sigma) / |G|^2, in examples; nan where the estimate of |G|^2 is not above 0."""
        return self.trace / self.square if self.square > 0 else math.nan

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> Point:
        """The row of the file."""
        values: dict[str, Any] = {each.name: _KINDS[str(each.type)](row[each.name]) for each in fields(cls)}
        return cls(**values)


@dataclass(frozen=True)
class BranchRow:
    """One branch that was trained: a row of branches.csv.

    Args:
        point: the number of its checkpoint, from 0.
        epoch: when that was saved, examples seen / N.
        rule, size, factor: of its `Arm`.
        seed: the number of its seed, from 0.
        lr: its learning rate, of the first parameter group.
        updates: how many it has, unless it diverged.
        start, losses: as in `Losses`.
        seconds: how long it took.
    """

    point: int
    epoch: float
    rule: str
    size: int
    factor: float
    seed: int
    lr: float
    updates: int
    seconds: float
    start: float
    losses: tuple[float, ...]

    @property
    def arm(self) -> Arm:
        return Arm(self.rule, self.size, self.factor)

    @property
    def curve(self) -> Losses:
        return Losses(self.start, self.losses)

    def as_row(self) -> dict[str, Any]:
        """Column -> value, with the losses in columns `loss_1` to `loss_8`."""
        row = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "losses"}
        return row | {f"loss_{part + 1}": self.losses[part] if part < len(self.losses) else "" for part in range(PARTS)}

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> BranchRow:
        """The row of the file."""
        values: dict[str, Any] = {each.name: _KINDS[str(each.type)](row[each.name]) for each in fields(cls) if each.name != "losses"}
        losses = (row[f"loss_{part + 1}"] for part in range(PARTS))
        return cls(**values, losses=tuple(float(loss) for loss in losses if loss))


COLUMNS = tuple(BranchRow(0, 0.0, "", 0, 1.0, 0, 0.0, 0, 0.0, 0.0, ()).as_row())


def grow_trunk(training: Training, points: Mapping[float, Path]) -> None:
    """Train the training itself up to the last of some times, and save it at each; what was saved before is not trained again.

    Args:
        training: the training.
        points: time in epochs, at most `training.epochs` -> the file.
    """
    left = {at: path for at, path in points.items() if not path.exists()}
    if not left:
        return
    done = [path for at, path in sorted(points.items()) if path.exists() and at < min(left)]
    training.fit(
        training.strategy,
        training.schedule,
        [SavePoints(left)],
        ckpt_path=done[-1] if done else None,
        same_run=training.same_run,
        max_epochs=training.epochs,
    )


def read_trunk(path: Path) -> Trunk:
    """Where a checkpoint is in its training; raises `ConfigError` if nothing can branch from it."""
    return trunk_of(SafeCheckpointIO().load_checkpoint(whole_checkpoint(path)), path)


def size_at(training: Training, trunk: Trunk) -> int:
    """B of the last update before a checkpoint."""
    n = trunk.num_examples
    before = max(0.0, trunk.epoch - 1.0 / n)
    schedule = training.schedule.with_horizon(training.epochs)
    warmup, factor = warmup_and_rest(schedule, before)
    return training.strategy(before, factor, n, warmup).size


class _Probe(LeanCallback):
    """Evaluates the loss on the fixed examples after each eighth of a branch, and, if asked, what there is to know before it."""

    def __init__(self, fixed: FixedExamples, updates: int, first: bool) -> None:
        self.fixed, self.every, self.first = fixed, updates // PARTS, first
        self.losses: list[float] = []
        self.probed: dict[str, Any] | None = None
        self._begun = self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = self._done = trainer.global_step
        if self.first:
            loader: Any = trainer.train_dataloader
            trace, square = self.fixed.gradient_noise(trainer, pl_module)
            loss, name = self.fixed.loss(trainer, pl_module), torch_name(type(trainer.optimizers[0]))
            least = loader.plan.min_micro_batch_size
            self.probed = {"loss": loss, "trace": trace, "square": square, "optimizer": name, "smallest": least}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._done:  # inside an update
            return
        self._done = trainer.global_step
        if (self._done - self._begun) % self.every == 0:
            self.losses.append(self.fixed.loss(trainer, pl_module))
            if not math.isfinite(self.losses[-1]):
                trainer.should_stop = True


def probe_point(training: Training, path: Path, trunk: Trunk, size: int, fixed: FixedExamples) -> dict[str, Any]:
    """What `Point` has of the loss, the gradients and the module, measured in a fork that changes nothing, before an update."""
    probe = _Probe(fixed, PARTS * 2, first=True)
    fork = Fork()
    training.fit(
        Fixed(size=size, last="carry"),
        Constant(),
        [probe],
        ckpt_path=path,
        io=ForkedCheckpointIO(fork, guarded=training.same_run is not None),
        same_run=None if training.same_run is None else fork.guard(training.same_run),
        seed=trunk.seed,
        max_steps=trunk.step + 1,
    )
    assert probe.probed is not None
    return probe.probed


def train_branch(training: Training, path: Path, trunk: Trunk, point: Point, arm: Arm, seed: int, fixed: FixedExamples) -> BranchRow:
    """Train one branch.

    Args:
        training: the training that it branches from.
        path, trunk: the checkpoint, and where that is.
        point: what is known of it.
        arm: batch size and learning rate.
        seed: the number of the seed; branches of equal number see the examples in the same order.
        fixed: what the loss is evaluated on.
    """
    began, updates = time.perf_counter(), point.examples // arm.size
    rate = arm.rate(point.size)
    own, last = derive_seed("branch", trunk.seed, seed) % 2**31, trunk.step + updates
    changes = {"seed": own, "batch.size": arm.size, "optimizer.lr": trunk.lr * rate, "scheduler.held": True, "trainer.max_steps": last}
    fork = Fork(rate, own, changes)
    probe = _Probe(fixed, updates, first=False)
    training.fit(
        Fixed(size=arm.size, last="carry"),
        Constant(),
        [probe],
        ckpt_path=path,
        io=ForkedCheckpointIO(fork, guarded=training.same_run is not None),
        same_run=None if training.same_run is None else fork.guard(training.same_run),
        seed=fork.seed,
        max_steps=last,
    )
    losses = tuple(probe.losses)
    seconds = round(time.perf_counter() - began, 3)
    return BranchRow(point.point, trunk.epoch, arm.rule, arm.size, arm.factor, seed, trunk.lr * rate, updates, seconds, point.loss, losses)


def mean_seconds(rows: Sequence[BranchRow]) -> tuple[float, float]:
    """(seconds of a branch apart from its updates, seconds of an update), fitted to the branches that were trained."""
    if not rows:
        return 0.05, 0.001
    n, u, t = len(rows), [row.updates for row in rows], [row.seconds for row in rows]
    spread = n * sum(x * x for x in u) - sum(u) ** 2
    slope = (n * sum(x * y for x, y in zip(u, t, strict=True)) - sum(u) * sum(t)) / spread if spread else sum(t) / max(sum(u), 1)
    slope = max(slope, 1e-6)
    return max((sum(t) - slope * sum(u)) / n, 0.0), slope

"""A training that a stop may disturb, and what is left of it, to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, EpochRecorder, NoiseScaleMonitor
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Plan, Update
from tests.helpers.regression import N, Plain, Validated, network
from tests.helpers.trainings import fit, weights

STRATEGIES: dict[str, batching.BatchStrategy] = {
    "growing": batching.MultiStep(size=11, milestones=[0.7, 1.6], factor=2, last="partial"),
    "carry": batching.Linear(size=6, max_size=40, epochs=3, last="carry"),
    "drop": batching.Fixed(size=10, last="drop"),
    "spread": batching.Fixed(size=10, last="spread"),
}
"""The first has 9, 4 and 3 updates in its epochs."""


class Validations(pl.Callback):
    """Counts what happened, as any stateful callback of a user's might."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append(("validation", trainer.global_step, float(trainer.callback_metrics["val/loss"])))

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append(("epoch", trainer.current_epoch, trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = [tuple(each) for each in state_dict["seen"]]


class Scheduled(Validated):
    """A module with a scheduler of its own, stepped after each `interval`; None: none."""

    interval: str | None = None

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.net.parameters())
        if self.interval is None:
            return optimizer
        if self.interval.startswith("plateau"):
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.9)
            how = {"interval": self.interval.removeprefix("plateau of each "), "frequency": 1 + self.interval.endswith("epoch")}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss", "strict": False, **how}}
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3 if self.interval == "step" else 1, 0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


@dataclass(frozen=True)
class Job:
    """A training with everything that a stop can disturb."""

    strategy: str = "growing"
    interval: float = 1.0
    every: int | None = 1
    updates: int | None = None
    scheduler: str | None = None
    weighted: bool = False

    def fit(self, folder: Path, *callbacks: pl.Callback, ckpt_path: Path | None = None, **options: Any) -> tuple[pl.Trainer, Plain]:
        module = Scheduled(network(dropout=0.3))
        module.interval = self.scheduler
        schedule = None if self.scheduler else schedules.Cosine()
        weight = (lambda batch: float(batch[1].abs().sum())) if self.weighted else None
        batches = BatchSizeScheduler(STRATEGIES[self.strategy], schedule, max_micro_batch_size=4, seed=5, weight=weight, check_cuts=False)
        recorders = NoiseScaleMonitor(folder / "steps.csv"), EpochRecorder(folder / "epochs.csv")
        trainer = fit(
            module,
            *(batches, *recorders, Validations(), EarlyStopping("val/loss", patience=100)),
            *callbacks,
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            val_check_interval=self.interval,
            check_val_every_n_epoch=self.every,
            limit_train_batches=1.0 if self.updates is None else self.updates,
            ckpt_path=ckpt_path,
            **options,
        )
        return trainer, module


def result(trainer: pl.Trainer, module: Plain, folder: Path) -> dict[str, Any]:
    callbacks: list[Any] = list(trainer.callbacks)  # type: ignore[attr-defined]
    waiting = next(callback for callback in callbacks if isinstance(callback, EarlyStopping))
    return {
        "weights": weights(module).tolist(),
        "optimizer": str(trainer.optimizers[0].state_dict()),
        "schedulers": [str(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
        "steps.csv": (folder / "steps.csv").read_text(),
        "epochs.csv": [{name: row[name] for name in row if "second" not in name} for row in read_rows(folder / "epochs.csv")],
        "validations": next(callback.seen for callback in callbacks if isinstance(callback, Validations)),
        "early stopping": (waiting.wait_count, float(waiting.best_score)),
        "counts": (trainer.current_epoch, trainer.global_step, trainer.fit_loop.epoch_loop._batches_that_stepped),
    }


@cache
def whole(job: Job) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return result(*job.fit(Path(folder)), Path(folder))


HOOKS = (
    *("on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_validation_epoch_end", "on_validation_end"),
)


class At(pl.Callback):
    """Does something at the `count`-th call of one of its hooks."""

    def __init__(self, hook: str, count: int, action: Callable[[pl.Trainer], None]) -> None:
        self.hook, self.left, self.action = hook, count, action

    def called(self, hook: str, trainer: pl.Trainer) -> None:
        self.left -= hook == self.hook
        if hook == self.hook and self.left == 0:
            self.action(trainer)


for _name in (*HOOKS, "on_train_epoch_end"):
    setattr(At, _name, lambda self, trainer, *_, hook=_name, **__: self.called(hook, trainer))


def stop(trainer: pl.Trainer) -> None:
    trainer.should_stop = True


def planned_updates() -> list[Update]:
    plan = Plan(schedules.Cosine(3), STRATEGIES["growing"], N, 3, max_micro_batch_size=4)
    return list(plan)

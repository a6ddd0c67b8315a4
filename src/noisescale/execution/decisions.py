"""Let a plan that is decided during the training know what was measured: at the end of each epoch, on all devices the same.

The index lists of an epoch are made when its first batch is asked for, after the last update and the last validation of the epoch before.
So no worker has fetched anything of the next epoch when it is decided, and a run does not depend on their number.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from noisescale.errors import ConfigError
from noisescale.execution.compatibility import untyped
from noisescale.execution.loader import PlannedLoader

__all__ = ["Decisions"]


class Decisions:
    """Reads what the plan goes by, and hands it to the loader.

    Args:
        loader: the planned loader.

    Attributes:
        measured: name -> value, written by the callbacks that have it in `provides`; anything else is a metric of validation.
    """

    def __init__(self, loader: PlannedLoader) -> None:
        self._loader = loader
        self.measured: dict[str, float] = {}
        self._validated = False  # since the last decision

    def check(self, trainer: pl.Trainer) -> None:
        """Raise `ConfigError` if something that the plan goes by will not be measured."""
        for name in sorted(self._loader.plan.monitors):
            if name in _provided(trainer):
                continue
            if name.startswith("noise/"):
                raise ConfigError("callbacks", "none", f"the batch goes by {name}, which no callback measures", "add GradientNoiseScale()")
            if not untyped(trainer).enable_validation:
                raise ConfigError("monitor", name, "there is no validation", "give the trainer validation data")

    def end_validation(self, trainer: pl.Trainer) -> None:
        """A validation is done."""
        if trainer.state.fn == TrainerFn.FITTING and not untyped(trainer).sanity_checking:
            self._validated = True

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Decide, if the epoch of the plan is over; once, though a resumed run comes here again."""
        loader = self._loader
        names, epoch = loader.plan.monitors, loader.plan.epoch_of(loader.cursor)
        if not names or not loader.epoch_is_over or (loader.observed and loader.observed[-1][0] >= epoch):
            return
        values = {name: value for name in sorted(names) if (value := self._read(trainer, name)) is not None}
        self._validated = False
        loader.observe(epoch, trainer.strategy.broadcast(values) if trainer.world_size > 1 else values)

    def _read(self, trainer: pl.Trainer, name: str) -> float | None:
        """What was measured in this epoch; None if nothing was."""
        if name in _provided(trainer):
            return self.measured.get(name)
        if not self._validated:
            return None
        metrics = trainer.callback_metrics
        if name not in metrics:
            there = ", ".join(sorted(metric for metric in metrics if metric.startswith("val")))
            raise ConfigError("monitor", name, "there is no such metric", f"there are {there}" if there else "log it in validation_step")
        return float(metrics[name])

    def state(self) -> dict[str, Any]:
        """Plain values, beside what the loader saves."""
        return {"validated": self._validated}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from where `state` was taken."""
        self._validated = state["validated"]


def _provided(trainer: pl.Trainer) -> set[str]:
    """What the callbacks measure."""
    return {name for callback in untyped(trainer).callbacks for name in getattr(callback, "provides", ())}

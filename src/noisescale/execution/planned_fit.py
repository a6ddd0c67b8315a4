"""One `fit` with a plan: what it changes in the trainer, when it may stop, and what is decided between its epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn

from noisescale.execution.decisions import Decisions
from noisescale.execution.installation import Installation
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.sampling import Sampling
from noisescale.execution.stops import Stops
from noisescale.execution.validations import check_interval
from noisescale.execution.window import Window
from noisescale.plans.plan import Plan

__all__ = ["PlannedFit"]


class PlannedFit:
    """Begins on construction, in the `setup` of a trainer, and ends with `undo`; a checkpoint may be saved even after that.

    Args:
        trainer, make_plan, seed, previous, sampling: as in `Installation`.

    Attributes:
        loader: the planned loader.
        decisions: what the plan goes by, if it is decided during the training.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        make_plan: Callable[[int], Plan],
        seed: int,
        previous: PlannedLoader | None,
        sampling: Sampling | None,
    ) -> None:
        installation = Installation(trainer, make_plan, seed, previous=previous, sampling=sampling)
        self.loader, self._count = installation.loader, installation.count
        self._installation: Installation | None = installation  # with all that it holds of the user's data, only until `undo`
        self._stops, self.decisions = Stops(trainer, self.loader), Decisions(self.loader)

    @property
    def active(self) -> bool:
        """Whether `undo` has not been called yet."""
        return self._installation is not None

    def say(self, trainer: pl.Trainer) -> None:
        """Say what the user has asked for and the plan does not do; the plan must be known."""
        assert self._installation is not None
        self._installation.forget_length(trainer)
        for note in self._installation.notes(trainer.optimizers[0]):
            rank_zero_warn(note)

    def check(self, trainer: pl.Trainer) -> None:
        """Raise `ConfigError` if a validation cannot be where the trainer has it, or if the plan goes by what will not be measured."""
        check_interval(trainer, self.loader)
        self.decisions.check(trainer)

    def length_is_known(self) -> None:
        """Lightning has asked for the length of the epoch."""
        assert self._installation is not None
        self._installation.length_is_known()

    def start_update(self, trainer: pl.Trainer, accumulate_grad_batches: int) -> None:
        """An update starts, of so many micro-batches."""
        trainer.accumulate_grad_batches = Window(accumulate_grad_batches, self.loader.batches_before_update, self._count)
        self._stops.start_update()

    def end_update(self) -> None:
        """An update is done."""
        self._stops.end_update()

    def start_validation(self) -> None:
        """A validation starts."""
        self._stops.start_validation()

    def end_validation(self, trainer: pl.Trainer) -> None:
        """A validation is done."""
        self._stops.end_validation()
        self.decisions.end_validation(trainer)

    def end_epoch(self, trainer: pl.Trainer) -> None:
        """Lightning leaves an epoch."""
        self._stops.end_epoch()
        self.decisions.end_epoch(trainer)

    def settle(self, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint of Lightning's that of the position of the run in its plan."""
        self._stops.settle(checkpoint)

    def undo(self, trainer: pl.Trainer) -> None:
        """Restore the trainer's own settings, once."""
        if self._installation is not None:
            self._stops.undo()
            self._installation.undo(trainer)
            self._installation = None

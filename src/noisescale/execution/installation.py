"""Put a planned loader in place of a trainer's own for the duration of one `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from noisescale.execution.compatibility import torch_name, untyped
from noisescale.execution.estimate import PlannedCount
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.notes import loader_notes
from noisescale.execution.repeated_warnings import RepeatedWarnings
from noisescale.execution.sampling import Sampling
from noisescale.execution.stops import reopen_epoch
from noisescale.execution.validations import planned_interval
from noisescale.execution.window import Window
from noisescale.plans.plan import Plan
from noisescale.plans.warnings import idle_warnings, rule_warnings

__all__ = ["Installation"]


class Installation:
    """The changes to a trainer that a plan needs: made on construction, reverted by `undo`.

    The planned loader replaces the train DataLoader, whether that comes from a datamodule, a module or `fit(train_dataloaders=...)`;
    Lightning asks for its length in every epoch; `limit_train_batches` no longer applies, because the plan includes it and Lightning
    could stop in the middle of an update; `val_check_interval` counts updates and examples, not micro-batches; and
    `estimated_stepping_batches` is the plan's number of updates.

    Args:
        trainer: the trainer, in its `setup`.
        make_plan: N -> the plan.
        seed, sampling: as in `PlannedLoader`.
        previous: the loader of an earlier `fit` of the same trainer, which this one continues; None if there was none.

    Attributes:
        loader: the planned loader.
        count: the number of updates of the plan.
        given: the user's DataLoader; None until it is needed.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        make_plan: Callable[[int], Plan],
        seed: int,
        previous: PlannedLoader | None,
        sampling: Sampling | None = None,
    ) -> None:
        # `_data_source` is private to Lightning, but it is the only object that is asked for the loader, wherever that comes from. The
        # original loader is requested later, because the module's own `setup` runs after this one.
        self._source = trainer.fit_loop._data_source
        self._replaced = self._source.instance
        self._limit = trainer.limit_train_batches
        self._reload = untyped(trainer).reload_dataloaders_every_n_epochs
        self._repeated = RepeatedWarnings()
        original = type(self._source)(self._source.instance, self._source.name)
        self.given: Any = None

        def take() -> Any:
            self.given = original.dataloader()
            return self.given

        self.loader = PlannedLoader(take, make_plan, seed, trainer.global_rank, lambda: trainer.current_epoch, sampling)
        self.count = PlannedCount(max(trainer.max_epochs or 1, 1), lambda: self.loader.plan.total_updates())
        if previous is not None and trainer.global_step > 0:
            reopen_epoch(trainer, self.loader, previous)
        self._interval = getattr(trainer, "val_check_interval", None)
        untyped(trainer).val_check_interval = planned_interval(trainer, self.loader)
        self._source.instance = self.loader
        trainer.limit_train_batches = 1.0
        untyped(trainer).reload_dataloaders_every_n_epochs = 1  # otherwise Lightning uses the length of the first epoch for all
        trainer.accumulate_grad_batches = Window(1, 0, self.count)

    def notes(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """Lines about what the user has asked for and the plan does not do, or does not do with this optimizer."""
        plan, decay = self.loader.plan, optimizer.defaults.get("weight_decay", 0.0)
        rules = rule_warnings(plan, torch_name(type(optimizer)), decay)
        return [*rules, *idle_warnings(plan), *loader_notes(self.given, plan, self._reload)]

    def forget_length(self, trainer: pl.Trainer) -> None:
        """Let Lightning ask for the length again if it has done so in `configure_optimizers`, when the position was not final."""
        if trainer.fit_loop._combined_loader is not None:
            trainer.fit_loop._combined_loader = None
            self._repeated.ignore()

    def length_is_known(self) -> None:
        """Ignore what Lightning has already said about it."""
        self._repeated.ignore()

    def undo(self, trainer: pl.Trainer) -> None:
        """Restore the trainer's own settings, and stop the loader's workers."""
        self._source.instance = self._replaced
        trainer.limit_train_batches = self._limit
        untyped(trainer).reload_dataloaders_every_n_epochs = self._reload
        untyped(trainer).val_check_interval = self._interval
        trainer.accumulate_grad_batches = 1
        self._repeated.undo()
        self.loader.close()

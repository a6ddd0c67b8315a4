"""A planned loader in the place of a trainer's own, for the length of one `fit`."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl

from noisescale.execution.compatibility import untyped
from noisescale.execution.loader import PlannedLoader
from noisescale.plans.plan import Plan

__all__ = ["Installation"]


class Installation:
    """What a plan needs of a trainer, set when this is made, and given back as it was by `undo`.

    The planned loader takes the place of the train DataLoader, whether that comes from a datamodule, a module or
    `fit(train_dataloaders=...)`; the loader's length is asked for in every epoch; and `limit_train_batches`, which the plan has taken
    in, no longer applies: Lightning would cut an update.

    Args:
        trainer: in its `setup`.
        make_plan: N -> the plan.
        seed: of the planned loader.
        previous: the loader of an earlier `fit` with the same trainer, which this one continues.

    Attributes:
        loader: the planned loader.
    """

    def __init__(self, trainer: pl.Trainer, make_plan: Callable[[int], Plan], seed: int, previous: PlannedLoader | None) -> None:
        # A private name of Lightning's: it is the one place that is asked for the loader, wherever that comes from. The original is
        # called late, because the module's own `setup` runs after this.
        self._source = trainer.fit_loop._data_source
        self._replaced = self._source.instance
        self._limit = trainer.limit_train_batches
        self._reload = untyped(trainer).reload_dataloaders_every_n_epochs
        original = type(self._source)(self._source.instance, self._source.name)
        self.loader = PlannedLoader(original.dataloader, make_plan, seed, trainer.global_rank, lambda: trainer.current_epoch)
        if previous is not None and trainer.global_step > 0:
            self.loader.restore(previous.state())
        self._source.instance = self.loader
        trainer.limit_train_batches = 1.0
        untyped(trainer).reload_dataloaders_every_n_epochs = 1  # else the length of the first epoch holds for all

    def undo(self, trainer: pl.Trainer) -> None:
        """Give the trainer back what it had, and stop the loader's workers."""
        self._source.instance = self._replaced
        trainer.limit_train_batches = self._limit
        untyped(trainer).reload_dataloaders_every_n_epochs = self._reload
        trainer.accumulate_grad_batches = 1
        self.loader.close()

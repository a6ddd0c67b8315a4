"""Continue a training with a plan that began without one: its clock is the number of passes that the trainer has counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn

from noisescale.errors import ConfigError
from noisescale.execution.loader import PlannedLoader
from noisescale.plans.plan import Cursor

__all__ = ["Unplanned"]


@dataclass(frozen=True)
class Unplanned:
    """A training that has begun without a plan.

    Args:
        progress: the state of the trainer's fit loop.
        updates: updates done.
        key, value: where it is from, for a message.
    """

    progress: Mapping[str, Any]
    updates: int
    key: str
    value: Any

    @classmethod
    def of_trainer(cls, trainer: pl.Trainer) -> Unplanned | None:
        """What `trainer` has done in an earlier `fit`; None if there was none."""
        if trainer.global_step == 0:
            return None
        return cls(trainer.fit_loop.state_dict(), trainer.global_step, "global_step", trainer.global_step)

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any], callback: str, path: Any) -> Unplanned | None:
        """What was done before `checkpoint` was saved; None if nothing was done, or if it has the state of the `callback` with a plan."""
        updates = checkpoint["global_step"]
        if updates == 0 or callback in checkpoint["callbacks"]:
            return None
        return cls(checkpoint["loops"]["fit_loop"], updates, "ckpt_path", path)

    def go_on(self, loader: PlannedLoader) -> None:
        """Put `loader` to the start of epoch E, where the training has ended E passes.

        The clock is E, whatever the batches were: position = E N and step = `updates`. Inside a pass nothing says which of its examples
        have been used, because their order was not the plan's.

        Raises:
            ConfigError: the training has ended inside a pass.
        """
        passes, batches = self.progress["epoch_progress"]["current"], self.progress["epoch_loop.batch_progress"]
        epochs, current = passes["ready"], batches["current"]
        at_an_end = passes["started"] == epochs and batches["is_last_batch"] and current["processed"] == current["ready"]
        if not at_an_end:
            problem = f"began without BatchSizeScheduler and ends inside epoch {epochs - 1}, where its examples are not known"
            raise ConfigError(self.key, self.value, problem, "resume from the end of an epoch, or load only the weights")
        position = epochs * loader.plan.num_examples
        loader.restore(
            {
                # the trainer is still in its last epoch, and moves on to the next one by itself
                "epoch": epochs - 1,
                "trainer_epoch": epochs - 1,
                "cursor": asdict(Cursor(self.updates, position, position)),
                "micro_batches_done": 0,
                "batches_before_update": current["ready"],
            }
        )
        rank_zero_warn(f"the first {self.updates} updates were made without BatchSizeScheduler; its plan goes on at epoch {epochs}")

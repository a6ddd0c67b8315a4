"""A stop inside an epoch is not the end of that epoch.

Whatever stops a training (`max_steps`, `max_time`, early stopping inside an epoch, any `should_stop`), Lightning leaves the epoch as if all
of it had been trained: it calls the hooks for the end of an epoch, and counts the epoch as done. A checkpoint that is saved then, or later,
resumes with the next epoch, and the rest of this one is never trained. Lightning also takes a stop at any micro-batch, even inside an
update.

Here a stop waits for the end of the update, and a checkpoint says where the run is in its plan, whenever it is saved: Lightning's own
counters in it are derived from that position, and the other callbacks have the state that they had before the epoch was left. A run that is
resumed from it is the run that never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from noisescale.execution.compatibility import untyped
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.validations import ValidationTimes

__all__ = ["Stops", "load_metrics", "plateau_step_left", "reopen_epoch", "take_plateau_step"]


class Stops:
    """Holds the stops of one `fit` to the ends of updates, and keeps its checkpoints resumable when it stops inside an epoch.

    Args:
        trainer: the trainer, in its `setup`, with its planned `val_check_interval`.
        loader: the planned loader, which knows the position of the run.
    """

    def __init__(self, trainer: pl.Trainer, loader: PlannedLoader) -> None:
        self._trainer, self._loader = trainer, loader
        self._min_steps, self._times = trainer.min_steps, untyped(trainer).val_check_interval
        self._validated_at: int | None = None  # the number of updates before the last validation that was completed
        self._kept: tuple[dict[str, Any], dict[str, Any]] | None = None  # states and metrics from before the stop
        self._started, self._update_ended = False, False
        trainer.fit_loop.epoch_loop.val_loop._has_run = False  # left over from a `fit` that stopped: this one would train empty epochs

    # -- stops wait for the end of an update ----------------------------------------------------------------------------------

    def start_update(self) -> None:
        """Let no stop take effect before the update that starts here is done.

        Lightning does not stop before `min_steps` updates, whoever asks for it and wherever in an update that is.
        """
        epoch_loop = self._trainer.fit_loop.epoch_loop
        epoch_loop.min_steps = max(self._min_steps or 0, self._trainer.global_step + 1)
        self._kept, self._update_ended = None, False
        if not self._started:  # Lightning's count of updates for loggers is one too high after some resumes with max_steps
            self._started, epoch_loop._batches_that_stepped = True, self._trainer.global_step

    def end_update(self) -> None:
        """Stop after the last update that `max_steps` allows. If that is inside an epoch, Lightning then validates as at any other stop."""
        self._update_ended = True
        plan = self._loader.plan
        if plan.max_updates is not None and self._loader.cursor.step >= plan.max_updates and self._loader.inside_epoch:
            untyped(self._trainer).should_stop = True

    def undo(self) -> None:
        """Restore the trainer's own `min_steps`."""
        self._trainer.fit_loop.epoch_loop.min_steps = self._min_steps

    # -- what Lightning does when it leaves an epoch --------------------------------------------------------------------------

    def start_validation(self) -> None:
        """Note whether a validation is one of the run, or takes place only because the run stops here."""
        if self._fitting and not self._validation_due():
            self._keep()

    def end_validation(self) -> None:
        """Note that the validation after this update is done."""
        if self._fitting:
            self._validated_at = self._loader.cursor.step

    def end_epoch(self) -> None:
        """Note whether the epoch that Lightning leaves is over."""
        self._update_ended = False
        if not self._loader.epoch_is_over:
            self._keep()
        self._trainer.fit_loop._restarting = False  # otherwise Lightning leaves out the step of a ReduceLROnPlateau at this epoch's end

    @property
    def _fitting(self) -> bool:
        return self._trainer.state.fn == TrainerFn.FITTING and not untyped(self._trainer).sanity_checking

    def _keep(self) -> None:
        """Keep what the stop must not change; but the states of checkpoint callbacks must say what lies on the disk."""
        if self._kept is None:
            others = [each for each in untyped(self._trainer).callbacks if not isinstance(each, pl.callbacks.Checkpoint)]
            states = {callback.state_key: callback.state_dict() for callback in others}
            self._kept = {key: deepcopy(state) for key, state in states.items() if state}, self._metrics()

    def _metrics(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self._trainer.callback_metrics.items()}

    def _validation_due(self) -> bool:
        """Whether the run is validated where it is, between two updates or at the end of its epoch."""
        if isinstance(self._times, ValidationTimes):
            return self._times.due()
        return not self._loader.inside_epoch

    # -- checkpoints ----------------------------------------------------------------------------------------------------------

    def settle(self, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint of Lightning's that of the position of the run in its plan.

        Inside an epoch, and at its end before its last hooks were called, the epoch is started and not processed, and its micro-batches
        that are done are completed. A validation that is due and was not completed is marked as begun, so that a resumed run repeats it;
        one that was completed is not repeated. Between two epochs, no micro-batch of the next one is done. If a stop has added a validation
        at the very end of an epoch, the resumed run calls the last hooks of the epoch again, without that validation. A scheduler that
        follows a metric, ReduceLROnPlateau, takes its step after the hooks in which checkpoints are saved; if the resumed run does not pass
        there again, the checkpoint says that this step is left to take.
        """
        loader, loops = self._loader, checkpoint["loops"]["fit_loop"]
        epochs, batches, validation = (loops[key] for key in ("epoch_progress", _BATCHES, _VALIDATION))
        epoch = epochs["current"]
        left = epoch["processed"] == epoch["started"] == epoch["ready"]  # Lightning has left the last epoch that it started
        closing = left and epoch["completed"] < epoch["processed"]  # in the last hooks of the epoch
        inside = loader.inside_epoch or (loader.epoch_is_over and (not left or self._kept is not None))
        if inside:
            _count(epoch, epoch["started"], open=1)
        elif left:
            _count(epoch, epoch["started"] if loader.epoch_is_over else loader.trainer_epoch)
        _count(batches["current"], loader.batches_done if inside else 0)
        epochs["total"] = dict(epoch)
        _count(batches["total"], batches["total"]["processed"])
        batches["is_last_batch"] = inside and not loader.inside_epoch
        due = inside and loader.micro_batches_done == 0 and self._is_validated(epoch["completed"]) and self._validation_due()
        pending = due and self._validated_at != loader.cursor.step
        done = validation["total"]["processed"]
        _count(validation["total"], done + pending, open=int(pending))
        _count(validation["current"], 0 if pending else validation["current"]["processed"])
        # Lightning counts an update for its loggers after the validation that follows it, and a resumed run passes there.
        loops[_EPOCH]["_batches_that_stepped"] = checkpoint["global_step"] - due
        checkpoint["epoch"] = epoch["completed"]
        checkpoint[_PLATEAU] = "step" if self._update_ended and not due else "epoch" if closing and not inside else None
        states, metrics = self._kept if self._kept is not None else ({}, self._metrics())
        checkpoint["callbacks"].update(states)
        checkpoint[_METRICS] = metrics

    def _is_validated(self, epoch: int) -> bool:
        """Whether the trainer validates in this epoch at all."""
        trainer = untyped(self._trainer)
        every = trainer.check_val_every_n_epoch
        return bool(trainer.enable_validation) and (every is None or (epoch + 1) % every == 0)


_METRICS = "callback_metrics"
_PLATEAU = "plateau_step_left"
_EPOCH = "epoch_loop.state_dict"
_BATCHES = "epoch_loop.batch_progress"
_VALIDATION = "epoch_loop.val_loop.batch_progress"


def _count(progress: dict[str, int], started: int, open: int = 0) -> None:
    """Set the counters of a loop: `started` of its iterations were started, and all but the last `open` were completed."""
    progress.update(ready=started, started=started, processed=started - open, completed=started - open)


def load_metrics(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The metrics that callbacks saw last, such as `val/loss`; Lightning does not save them."""
    metrics: dict[str, torch.Tensor] = checkpoint.get(_METRICS, {})
    return metrics


def plateau_step_left(checkpoint: Mapping[str, Any]) -> str | None:
    """The interval, step or epoch, whose ReduceLROnPlateau has its step left to take; None: none."""
    interval: str | None = checkpoint.get(_PLATEAU)
    return interval


def take_plateau_step(trainer: pl.Trainer, interval: str) -> None:
    """Let Lightning step the schedulers that follow a metric, as it would have at the end of the last update or epoch."""
    epoch = trainer.fit_loop.epoch_progress.current
    past = int(interval == "epoch")  # a checkpoint counts the epoch as completed
    epoch.completed -= past
    try:
        trainer.fit_loop.epoch_loop.update_lr_schedulers(interval, update_plateau_schedulers=True)
    finally:
        epoch.completed += past


def reopen_epoch(trainer: pl.Trainer, loader: PlannedLoader, previous: PlannedLoader) -> None:
    """Continue where `previous` is in a `fit` without a checkpoint; Lightning then counts the micro-batches of an open epoch anew."""
    loader.restore({**previous.state(), "batches_before_update": 0, "micro_batches_done": 0})
    _count(vars(trainer.fit_loop.epoch_progress.current), previous.trainer_epoch + previous.epoch_is_over)

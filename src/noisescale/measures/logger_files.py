"""Keep what loggers have written in step with checkpoints: a run that is resumed has each point once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info

from noisescale.measures.event_files import EventFiles

__all__ = ["LoggerFiles", "due_points", "log_due_points"]


class LoggerFiles:
    """The files of the loggers of a run: written out before each checkpoint, and cut back to it when the run is resumed.

    TensorBoard's files are cut back by their length. `purge_step` of its writer goes by the step alone, and would hide points of the axis
    of examples, whose steps are larger. Other loggers cannot remove what they have logged: a line says so.
    """

    def __init__(self) -> None:
        self._events = EventFiles()

    def state(self, trainer: pl.Trainer) -> dict[str, Any]:
        """How far the files go, in plain values, after everything that was logged has been written to the disk."""
        for logger in trainer.loggers:
            logger.save()
        return self._events.state(_folders(trainer))

    def resume(self, trainer: pl.Trainer, saved: Mapping[str, Any] | None) -> None:
        """Cut the files back to `saved`, and say in a line what cannot be made whole."""
        step = trainer.global_step
        if saved is not None:
            self._events.cut_back(_folders(trainer), saved, step)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                name = type(logger).__name__
                rank_zero_info(f"{name} cannot take back what the run before has logged after update {step}; this run logs from there on")
            elif _folder(logger) is None:
                where = f"TensorBoard's files in {logger.log_dir}"
                rank_zero_info(f"{where} are not on this machine's disks: what was logged after update {step} is in them twice")


def due_points(trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """What Lightning will log only after this checkpoint, although the run that is resumed from it starts behind that.

    Lightning saves checkpoints in the hooks at the end of an epoch, and logs the metrics of the epoch after these hooks; likewise the
    metrics of a batch.

    Returns:
        {"metrics": tag -> value, "step": the step of the logger}, in plain values; None if nothing is due.
    """
    loop, connector = trainer.fit_loop, trainer._logger_connector
    if trainer.state.fn != TrainerFn.FITTING or not trainer.training or not trainer.loggers:
        return None
    epoch: Any = loop.epoch_progress.current
    batch: Any = loop.epoch_loop.batch_progress.current
    saved = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    step = loop.epoch_loop._batches_that_stepped
    if epoch.processed > epoch.completed:  # in the hooks at the end of an epoch
        if saved["processed"] < saved["started"]:  # the resumed run calls them again
            return None
        step -= 1
    elif not (batch.processed > batch.completed and not loop._should_accumulate() and connector.should_update_logs):
        return None
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return {"metrics": {"epoch": trainer.current_epoch, **metrics}, "step": step} if metrics else None


def log_due_points(trainer: pl.Trainer, due: Mapping[str, Any] | None) -> None:
    """Log what `due_points` has found when the checkpoint was saved."""
    if due is None:
        return
    for logger in trainer.loggers:
        logger.log_metrics(dict(due["metrics"]), step=due["step"])
        logger.save()


def _folders(trainer: pl.Trainer) -> Iterator[tuple[Path, Any]]:
    """(folder, writer) of each TensorBoard logger whose files are on this machine."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and (folder := _folder(logger)) is not None:
            yield folder, logger.experiment


def _folder(logger: Logger) -> Path | None:
    folder = str(logger.log_dir)
    return None if "://" in folder else Path(folder)

"""Record each epoch in a row of a CSV file: training and validation metrics, time, throughput."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.files import read_rows, set_aside, write_rows
from noisescale.measures.dashboards import log_by_examples

__all__ = ["EpochRecorder"]

COLUMNS = ("epoch", "updates", "examples_seen", "seconds", "examples_per_second")


class EpochRecorder(LeanCallback):
    """Write epochs.csv: `epoch,updates,examples_seen,seconds,examples_per_second`, then every metric of the epoch.

    `epoch` is the number of whole epochs done, from 1; `updates` and `examples_seen` are totals so far; `seconds` is the time of training
    without validation. TensorBoard also shows the metrics of the epoch over examples, under `by_examples/`.

    A row is written when its epoch is over. If the run stops inside an epoch of a plan, what the epoch has so far is in the checkpoint, and
    the run that is resumed from it writes the row: `seconds` is then the sum over both runs.

    Args:
        path: the CSV file, replaced atomically each epoch.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._since: float | None = None  # when the clock was started; None while it stands still
        self._seconds = 0.0  # of the epoch, up to then
        self._examples_before = 0
        self._validated = False  # in this epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            set_aside(self.path)
        self._rows = [dict(row) for row in read_rows(self.path) if int(row["epoch"]) <= trainer.current_epoch]
        self._since = time.perf_counter()  # a run that is resumed inside an epoch does not call on_train_epoch_start

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close(trainer)
        self._seconds, self._since, self._validated = 0.0, time.perf_counter(), False
        self._examples_before = _examples_seen(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since, self._validated = time.perf_counter(), True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader = trainer.train_dataloader
        if isinstance(loader, PlannedLoader) and not loader.epoch_is_over:
            return
        seconds, examples = self._elapsed(), _examples_seen(trainer)
        self._open = {
            "epoch": trainer.current_epoch + 1,
            "updates": trainer.global_step,
            "examples_seen": examples,
            "seconds": round(seconds, 4),
            "examples_per_second": round((examples - self._examples_before) / seconds, 1) if seconds > 0 else "",
        }

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._pause()
        self._close(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What the row of an unfinished epoch needs."""
        return {"seconds": self._elapsed(), "examples_before": self._examples_before, "validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds, self._since = state_dict["seconds"], None
        self._examples_before, self._validated = state_dict["examples_before"], state_dict["validated"]

    def _elapsed(self) -> float:
        """Seconds of training in this epoch."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def _pause(self) -> None:
        self._seconds, self._since = self._elapsed(), None

    def _close(self, trainer: pl.Trainer) -> None:
        # The module logs its epoch means in its own on_train_epoch_end, which runs after those of the callbacks. So they are read one hook
        # later.
        row, self._open = self._open, None
        if row is None or not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        if not self._validated:  # then Lightning still has the validation metrics of an earlier epoch
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
        self._rows.append({**row, **metrics})
        names = dict.fromkeys(name for each in self._rows for name in each)
        write_rows(self.path, list(names), self._rows, durable=False)
        metrics.pop("train/loss", None)  # that tag is used for the loss of each update
        log_by_examples(trainer, metrics, row["examples_seen"], time.time())


def _examples_seen(trainer: pl.Trainer) -> int:
    loader = trainer.train_dataloader
    return loader.cursor.examples_seen if isinstance(loader, PlannedLoader) else 0

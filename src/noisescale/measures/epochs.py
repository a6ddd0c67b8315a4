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
    the run that is resumed from it writes the row: `seconds` is then the sum over both runs. All rows are in the checkpoint, too, so that
    the file of a resumed run is whole, whatever has become of it.

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
        self._fitting = True
        self._saved: dict[str, Any] = {}  # the state of the checkpoint that is resumed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        if self._fitting:
            self._saved = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            set_aside(self.path)
        if "rows" not in self._saved:
            self._rows = [dict(row) for row in _rows_of(self.path) if int(row["epoch"]) <= trainer.current_epoch]
        self._resume(trainer)
        self._since = time.perf_counter()  # a run that is resumed inside an epoch does not call on_train_epoch_start

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._resume(trainer)  # of a run that had nothing left to train

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close(trainer)
        self._seconds, self._since, self._validated = 0.0, time.perf_counter(), False
        self._examples_before = _examples_seen(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()
        self._validated = True  # here, because another callback may save a checkpoint when it has ended

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader = trainer.train_dataloader
        if not isinstance(loader, PlannedLoader) or loader.epoch_is_over:
            self._open = self._measured(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pause()
        self._close(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._pause()
        self._close(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The rows, and what the row of an unfinished epoch needs."""
        return {
            "seconds": self._elapsed(),
            "examples_before": self._examples_before,
            "validated": self._validated,
            "rows": [dict(row) for row in self._rows],
        }

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the row of an epoch that is over and has none yet, if a run that is resumed from here starts behind that epoch."""
        epoch: Any = trainer.fit_loop.epoch_progress.current
        row, ending = self._open, trainer.training and epoch.processed > epoch.completed
        if row is None and ending:
            row = self._measured(trainer)  # another callback saves at the end of the epoch, before this one has been called
        if row is not None and checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] >= row["epoch"]:
            late = _not_logged_yet(trainer) if ending else ()
            due = {**row, **{name: value for name, value in self._metrics(trainer).items() if name not in late}}
            checkpoint["callbacks"][self.state_key] = {**checkpoint["callbacks"][self.state_key], "due": due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._fitting:  # the weights of a checkpoint are tested or validated
            return
        self._saved = state_dict
        self._seconds, self._since = state_dict["seconds"], None
        self._examples_before, self._validated = state_dict["examples_before"], state_dict["validated"]

    def _resume(self, trainer: pl.Trainer) -> None:
        """Write the file as it was when the checkpoint was saved, with the row that was due."""
        saved, self._saved = self._saved, {}
        if "rows" not in saved or not trainer.is_global_zero:
            return
        self._rows = [dict(row) for row in saved["rows"]]
        if not self._rows or not _agree(_rows_of(self.path), self._rows):
            set_aside(self.path)  # it may be the file of another run
        if "due" in saved:
            self._add(trainer, saved["due"])
        elif self._rows:
            self._write()

    def _measured(self, trainer: pl.Trainer) -> dict[str, Any]:
        """The row of the epoch that ends here, without its metrics."""
        seconds, examples = self._elapsed(), _examples_seen(trainer)
        return {
            "epoch": trainer.current_epoch + 1,
            "updates": trainer.global_step,
            "examples_seen": examples,
            "seconds": round(seconds, 4),
            "examples_per_second": round((examples - self._examples_before) / seconds, 1) if seconds > 0 else "",
        }

    def _elapsed(self) -> float:
        """Seconds of training in this epoch."""
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def _pause(self) -> None:
        self._seconds, self._since = self._elapsed(), None

    def _close(self, trainer: pl.Trainer) -> None:
        # The module logs its epoch means in its own on_train_epoch_end, which runs after those of the callbacks. So they are read one hook
        # later.
        row, self._open = self._open, None
        if row is not None and trainer.is_global_zero:
            self._add(trainer, {**row, **self._metrics(trainer)})

    def _metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        # without a validation in this epoch, Lightning still has the metrics of an earlier one
        return {name: value for name, value in metrics.items() if self._validated or not name.startswith("val/")}

    def _add(self, trainer: pl.Trainer, row: dict[str, Any]) -> None:
        """Append a row to the file, and log its metrics over examples."""
        self._rows.append(row)
        self._write()
        # train/loss is the tag of the loss of each update
        metrics = {name: value for name, value in row.items() if name not in COLUMNS and name != "train/loss"}
        log_by_examples(trainer, metrics, row["examples_seen"], time.time())

    def _write(self) -> None:
        names = dict.fromkeys(name for each in self._rows for name in each)
        write_rows(self.path, list(names), self._rows, durable=False)


def _not_logged_yet(trainer: pl.Trainer) -> set[str]:
    """Names whose metrics are still those of an earlier epoch, because the module logs them in its own on_train_epoch_end."""
    results: Any = trainer._results
    return set() if results is None else {item.meta.name for item in results.values() if item.has_reset}


def _rows_of(path: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(path) if row.get("epoch", "").isdecimal()]


def _agree(found: list[dict[str, str]], rows: list[dict[str, Any]]) -> bool:
    """Whether the rows of a file, as far as they reach, can be those of the run that has `rows`."""
    ours = {str(row["epoch"]): row for row in rows}
    both = [(row, ours[row["epoch"]]) for row in found if row["epoch"] in ours]
    return all(row.get(name) == str(own[name]) for row, own in both for name in ("updates", "examples_seen"))


def _examples_seen(trainer: pl.Trainer) -> int:
    loader = trainer.train_dataloader
    return loader.cursor.examples_seen if isinstance(loader, PlannedLoader) else 0

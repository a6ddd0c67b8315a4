"""After a kill, steps.csv, epochs.csv and TensorBoard's scalars of a resumed run are those of the run that never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, EpochRecorder, NoiseScaleMonitor
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.left_behind import scalars
from tests.helpers.regression import Validated, network
from tests.helpers.trainings import Stop, fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]

UPDATES = 6
"""Of 103 examples in twenties, in each of 3 epochs; with micro-batches of at most 8 each has 3 micro-batches, the last one 1."""


class Logs(Validated):
    """A module that logs by itself: in each step, and at the end of each epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("own/step", loss.detach())
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", 0.0)

    def on_train_epoch_end(self) -> None:
        self.log("own/epoch", float(self.trainer.global_step))


class Dies(pl.Callback):
    """Ends the training after `update` updates, and so that nothing of it is written any more, as a kill would."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.update:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, (NoiseScaleMonitor, EpochRecorder)):
                    callback.on_exception = lambda *_: None  # type: ignore[method-assign]
            raise Stop


class Saves(pl.Callback):
    """Saves a checkpoint in `hook` the first time that it is called after `update` updates."""

    def __init__(self, hook: str, update: int, path: Path) -> None:
        self.update, self.path = update, path
        setattr(self, hook, self._save)

    def _save(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.update and not self.path.exists():
            trainer.save_checkpoint(self.path)


def run(folder: Path, *first: pl.Callback, **options: Any) -> pl.Trainer:
    logger = TensorBoardLogger(folder, name="", version="")
    batches = BatchSizeScheduler(batching.Fixed(20), schedules.Cosine(), max_micro_batch_size=8)
    own: list[pl.Callback] = [NoiseScaleMonitor(folder / "steps.csv", write_every=4), EpochRecorder(folder / "epochs.csv")]
    return fit(Logs(network(dropout=0.1)), *first, batches, *own, logger=logger, log_every_n_steps=1, **options)


def left(folder: Path) -> tuple[str, list[dict[str, str]], dict[str, list[tuple[int, float]]]]:
    """steps.csv, epochs.csv without the times, and the scalars."""
    timed = ("seconds", "examples_per_second")
    epochs = [{name: value for name, value in row.items() if name not in timed} for row in read_rows(folder / "epochs.csv")]
    return (folder / "steps.csv").read_text(), epochs, scalars(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return left(folder)


@pytest.mark.parametrize(
    ("hook", "update", "death"),
    [
        ("on_train_batch_end", 9, 11),
        pytest.param("on_train_batch_start", 8, 9, marks=pytest.mark.slow),
        ("on_validation_end", 6, 7),
        pytest.param("on_train_epoch_start", 6, 8, marks=pytest.mark.slow),
    ],
)
def test_wherever_any_callback_saves(hook: str, update: int, death: int, tmp_path: Path, whole: Any) -> None:
    saved = tmp_path / "saved.ckpt"
    with pytest.raises(Stop):
        run(tmp_path, Saves(hook, update, saved), Dies(death))
    run(tmp_path, ckpt_path=saved)
    steps, epochs, points = left(tmp_path)
    expected_steps, expected_epochs, expected_points = whole
    assert steps == expected_steps
    assert epochs == expected_epochs
    assert points == expected_points


def test_at_the_end_of_an_epoch_by_a_checkpoint_callback(tmp_path: Path, whole: Any) -> None:
    """Lightning logs the metrics of the epoch, and the recorder writes its row, after the checkpoint; both are due in the resumed run."""
    saver = ModelCheckpoint(tmp_path, filename="saved", save_on_train_epoch_end=True, every_n_epochs=2)
    with pytest.raises(Stop):
        run(tmp_path, saver, Dies(13), enable_checkpointing=True)
    run(tmp_path, ckpt_path=tmp_path / "saved.ckpt")
    assert left(tmp_path) == whole


@pytest.mark.slow
def test_a_stop_inside_an_epoch_leaves_no_points_of_its_own(tmp_path: Path, whole: Any) -> None:
    """A stop adds a validation and the end of an epoch, which the run that never stops does not have."""
    run(tmp_path, max_steps=9).save_checkpoint(tmp_path / "saved.ckpt")
    assert len(scalars(tmp_path)["val/loss"]) == 2
    run(tmp_path, ckpt_path=tmp_path / "saved.ckpt")
    assert left(tmp_path) == whole


def test_a_run_that_has_nothing_left_to_train_is_made_whole_by_its_test(tmp_path: Path, whole: Any) -> None:
    """It was killed after the last checkpoint, before the last row and points were written."""

    class DiesLate(pl.Callback):
        def on_train_end(self, *_: Any) -> None:
            raise Stop

    saver = ModelCheckpoint(tmp_path, filename="saved", save_on_train_epoch_end=True)
    with pytest.raises(Stop):
        run(tmp_path, saver, DiesLate(), Dies(-1), enable_checkpointing=True)
    trainer = run(tmp_path, ckpt_path=tmp_path / "saved.ckpt")
    trainer.test(trainer.lightning_module, trainer.lightning_module.val_dataloader(), verbose=False)
    steps, epochs, points = left(tmp_path)
    assert points.pop("test/loss")
    points["epoch"].pop()
    assert (steps, epochs, points) == whole


@pytest.mark.slow
def test_a_plain_trainer_without_a_plan(tmp_path: Path) -> None:
    """Lightning alone resumes at the end of an epoch; the files then fit, too."""

    def plain(folder: Path, *callbacks: pl.Callback, **options: Any) -> None:
        own = (NoiseScaleMonitor(folder / "steps.csv"), EpochRecorder(folder / "epochs.csv"))
        fit(Logs(network()), *callbacks, *own, shuffle=False, logger=TensorBoardLogger(folder, name="", version=""), **options)

    saver = ModelCheckpoint(tmp_path / "parts", filename="saved", save_on_train_epoch_end=True, every_n_epochs=2)
    plain(tmp_path / "whole")
    with pytest.raises(Stop):
        plain(tmp_path / "parts", saver, Dies(33), enable_checkpointing=True)
    plain(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "saved.ckpt")
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_epochs_csv_is_whole_whatever_has_become_of_it(tmp_path: Path, whole: Any) -> None:
    saved = tmp_path / "saved.ckpt"
    with pytest.raises(Stop):
        run(tmp_path, Saves("on_train_batch_start", 13, saved), Dies(14))
    (tmp_path / "epochs.csv").write_bytes(bytes(100))
    run(tmp_path, ckpt_path=saved)
    assert left(tmp_path) == whole
    other = tmp_path / "epochs.csv"
    other.write_text(other.read_text().replace("1,6,103", "1,5,103"))  # that of another run
    run(tmp_path, ckpt_path=saved)
    assert left(tmp_path) == whole
    assert "1,5,103" in (tmp_path / "epochs.csv.1").read_text()


def test_other_loggers_say_that_they_cannot_take_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = tmp_path / "saved.ckpt"

    def logged(*callbacks: pl.Callback, **options: Any) -> None:
        loggers = [CSVLogger(tmp_path, flush_logs_every_n_steps=100), TensorBoardLogger("memory://run", name="", version="")]
        batches = BatchSizeScheduler(batching.Fixed(20))
        fit(Logs(network()), batches, NoiseScaleMonitor(tmp_path / "steps.csv"), *callbacks, logger=loggers, max_epochs=1, **options)

    with pytest.raises(Stop):
        logged(Saves("on_train_batch_end", 3, saved), Dies(5))
    rows = read_rows(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")
    assert {"0", "1", "2"} <= {row["step"] for row in rows}
    caplog.clear()
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        logged(ckpt_path=saved)
    assert [line for line in caplog.messages if "after update 3" in line] == [
        "CSVLogger cannot take back what the run before has logged after update 3; this run logs from there on",
        "TensorBoard's files in memory://run/ are not on this machine's disks: what was logged after update 3 is in them twice",
    ]

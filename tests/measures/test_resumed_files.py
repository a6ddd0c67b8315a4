"""After a kill, steps.csv, epochs.csv and TensorBoard's scalars of a resumed run are those of the run that never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
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
from tests.helpers.kills import scalars
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


def run(folder: Path, *first: pl.Callback, planned: bool = True, path: bool = True, **options: Any) -> pl.Trainer:
    logger = TensorBoardLogger(folder, name="", version="")
    batches = [BatchSizeScheduler(batching.Fixed(20), schedules.Cosine(), max_micro_batch_size=8)] if planned else []
    own: list[pl.Callback] = [NoiseScaleMonitor(folder / "steps.csv", write_every=4), EpochRecorder(folder / "epochs.csv")]
    trainer = fit(Logs(network(dropout=0.1)), *first, *batches, *own, logger=logger, log_every_n_steps=1, **options)
    return trainer


def left(folder: Path) -> tuple[str, list[dict[str, str]], dict[str, list[tuple[int, float]]]]:
    """steps.csv, epochs.csv without the times, and the scalars."""
    timed = ("seconds", "examples_per_second")
    epochs = [{name: value for name, value in row.items() if name not in timed} for row in read_rows(folder / "epochs.csv")]
    return (folder / "steps.csv").read_text(), epochs, scalars(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.get_num_threads", torch.get_num_threads)
        run(folder)
    return left(folder)


@pytest.mark.parametrize(
    ("hook", "update", "death"),
    [
        ("on_train_batch_end", 9, 11),  # inside an update, before the monitor stands in the list
        ("on_train_batch_start", 8, 9),
        ("on_validation_end", 6, 7),
        ("on_train_epoch_start", 6, 8),
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

"""Callbacks that go by a metric: one that there will not be is one line. The lines before training are in bad_input.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from noisescale.app.monitors import declared_metrics, missing_metric, no_validation, with_their_metrics
from noisescale.models import Classifier
from tests.helpers.front_door import QUICK, results_of, run
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.trainings import ignored, quiet_trainer

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["data.val_fraction=0"], "data.val_fraction=0 keeps no examples for it"),
        (["+trainer.limit_val_batches=0"], "trainer.limit_val_batches=0"),
        (["trainer.check_val_every_n_epoch=2"], "trainer.check_val_every_n_epoch=2 is more than epochs=1"),
    ],
)
def test_the_templates_own_best_checkpoint_is_left_out_in_one_line(words: list[str], because: str, tmp_path: Path) -> None:
    outcome = run(*QUICK, "logger=csv-only", *words, f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    assert outcome.lines[0] == f"note: no best checkpoint, because {because}"
    assert sum("no best checkpoint" in line for line in outcome.lines) == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_metric_of_another_callback_may_be_monitored(tmp_path: Path) -> None:
    """What a callback of the user's logs is not known before training, so it is not refused."""
    mine = ("+callbacks.mine._target_=tests.helpers.callbacks.Logs", "callbacks.best.monitor=mine")
    outcome = run(*QUICK, "epochs=2", "logger=csv-only", *mine, f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("metric", ["epoch", "step"])
def test_a_checkpoint_may_go_by_lightnings_own_counts(metric: str, tmp_path: Path) -> None:
    assert run(*QUICK, "logger=csv-only", f"callbacks.best.monitor={metric}", f"hydra.run.dir={tmp_path}").status == 0
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_a_metric_that_another_callback_does_not_log_is_one_line_after_the_first_validation(tmp_path: Path) -> None:
    mine = ("+callbacks.mine._target_=tests.helpers.callbacks.Logs", "callbacks.best.monitor=nine")
    outcome = run(*QUICK, "logger=csv-only", *mine, f"hydra.run.dir={tmp_path}")
    assert outcome.status == 2
    found = "mine, train/acc, train/loss, val/acc, val/loss"
    assert outcome.lines[-1] == f"error: callbacks.best.monitor=nine: there is no such metric; there are {found}"
    assert not (tmp_path / "results.json").exists()


class ByHand(pl.Callback):
    """A callback of the user's that looks its metric up."""

    monitor = "val/f1"

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        float(trainer.callback_metrics[self.monitor])


class Validated(Plain):
    """A module of the user's own, which does not say what it logs."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/mse", self.training_step(batch, batch_idx))


@pytest.mark.parametrize(
    "callback",
    [lambda: EarlyStopping("val/f1"), lambda: ModelCheckpoint(monitor="val/f1"), ByHand],
    ids=["EarlyStopping", "ModelCheckpoint", "their own"],
)
def test_the_error_of_any_callback_without_its_metric_is_one_line(callback: Callable[[], pl.Callback], tmp_path: Path) -> None:
    trainer = quiet_trainer(callback(), max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=True)
    loader = DataLoader(Regression(), batch_size=50)
    with pytest.raises(Exception, match="val/f1") as caught:
        trainer.fit(Validated(network()), loader, loader)
    cfg: Any = OmegaConf.create({"callbacks": {"mine": {"monitor": "val/f1"}}, "early_stopping": {}})
    line = missing_metric(caught.value, cfg, trainer)
    assert str(line) == "callbacks.mine.monitor=val/f1: there is no such metric; there are val/mse"


def test_any_other_error_is_left_alone() -> None:
    trainer = quiet_trainer(EarlyStopping("loss"))
    cfg: Any = OmegaConf.create({"callbacks": {}, "early_stopping": {}})
    for error in (ValueError("'loss'"), RuntimeError("the loss is not a scalar"), KeyError("nll_loss")):
        assert missing_metric(error, cfg, trainer) is None


def test_of_a_module_that_does_not_say_what_it_logs_only_validation_is_known() -> None:
    stopping, best = EarlyStopping("val_loss"), ModelCheckpoint(monitor="train_loss")
    callbacks = {"early_stopping": stopping, "callbacks.mine": best}
    assert dict(with_their_metrics(callbacks, None, "")) == callbacks
    with pytest.raises(ValueError, match=r"^early_stopping\.monitor=val_loss: there is no validation, because of that$"):
        dict(with_their_metrics(callbacks, None, "of that"))


def test_what_a_module_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Plain(network())
    assert declared_metrics(module) is None
    module.metric_names = ["val/f1"]  # type: ignore[assignment]
    assert declared_metrics(module) == ("val/f1",)
    module.metric_names = network()  # a name that a module uses for something else
    assert declared_metrics(module) is None


def test_the_classifier_logs_what_it_declares(tmp_path: Path) -> None:
    assert run(*QUICK, "callbacks=light", "logger=csv-only", f"hydra.run.dir={tmp_path}").status == 0
    assert {name for name in results_of(tmp_path) if name.startswith(("train/", "val/"))} == set(Classifier.metric_names)


def test_data_without_a_validation_set() -> None:
    cfg: Any = OmegaConf.create({"trainer": {}, "data": {}, "epochs": 1})
    assert no_validation(cfg, has_data=True) == ""
    assert no_validation(cfg, has_data=False) == "the data have none for it"

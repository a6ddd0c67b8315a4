"""A training that began without BatchSizeScheduler goes on at its epoch; where that is not known it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.nn import functional as F
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Cursor
from tests.helpers.refusals import error_of
from tests.helpers.regression import N, Plain, Regression, Validated, network
from tests.helpers.rounding import assert_equal_to_rounding
from tests.helpers.trainings import Rates, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]

BATCHES = 15
"""Of 103 examples in sevens."""
SAID = "the first 30 updates were made without BatchSizeScheduler; its plan goes on at epoch 2"


class SaveAt(pl.Callback):
    """Saves a checkpoint in one hook of epoch 1, or of epoch 2 for `on_train_epoch_start`."""

    def __init__(self, path: Path, hook: str, batch: int = 0) -> None:
        self.path, self.hook, self.batch = path, hook, batch

    def _save(self, trainer: pl.Trainer, hook: str, epoch: int = 1, batch: int = 0) -> None:
        if (hook, epoch, batch) == (self.hook, trainer.current_epoch, self.batch):
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._save(trainer, "batch_end", batch=batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, "validation_end")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, "epoch_end")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, "epoch_start", epoch=2)


def planned(**options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(batching.Linear(size=6, max_size=40, epochs=4), schedules.Cosine(), max_micro_batch_size=8, **options)


def by_hand(checkpoint: dict[str, Any], batches: BatchSizeScheduler) -> torch.Tensor:
    """The weights after the updates that the plan has from epoch 2 on, without Lightning."""
    data, net = Regression(), network()
    net.load_state_dict({name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    assert batches.loader is not None
    for update in batches.plan.updates(Cursor(2 * BATCHES, 2 * N, 2 * N)):
        indices = batches.loader.indices(update.start.position, update.effective_batch_size)
        optimizer.param_groups[0]["lr"] = 0.1 * update.lr_factor
        optimizer.zero_grad()
        F.mse_loss(net(data.x[indices]), data.y[indices]).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.cases(3)
@pytest.mark.parametrize("late", [False, True], ids=["", "restored after on_fit_start"])
@pytest.mark.parametrize(
    ("kind", "saver"),
    [
        (Plain, {"hook": "epoch_end"}),
        (Validated, {"hook": "epoch_end"}),
        (Validated, {"hook": "validation_end"}),
        (Plain, {"hook": "batch_end", "batch": BATCHES - 1}),
    ],
)
def test_it_goes_on_at_its_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Plain], saver: dict[str, Any], late: bool
) -> None:
    path = tmp_path / "end.ckpt"
    fit(kind(network()), SaveAt(path, **saver), max_epochs=3)
    monkeypatch.setattr(SingleDeviceStrategy, "restore_checkpoint_after_setup", late)
    module, batches, rates = kind(network()), planned(), Rates()
    with pytest.warns(UserWarning, match=SAID):
        trainer = fit(module, batches, rates, NoiseScaleMonitor(tmp_path / "steps.csv"), ckpt_path=path, max_epochs=4)
    updates = list(batches.plan.updates(Cursor(2 * BATCHES, 2 * N, 2 * N)))
    assert [rate for (rate,) in rates.rates] == [0.1 * update.lr_factor for update in updates]
    assert updates[0].lr_factor == pytest.approx(0.5)
    assert trainer.global_step == 2 * BATCHES + len(updates)
    assert trainer.current_epoch == 4
    assert_equal_to_rounding(weights(module), by_hand(torch.load(path, weights_only=False), batches), 40 * N)
    first = read_rows(tmp_path / "steps.csv")[0]
    assert (first["step"], float(first["epoch"]), first["examples_seen"]) == ("30", 2.0, str(2 * N))


def test_after_the_last_epoch_too_and_from_a_model_checkpoint(tmp_path: Path) -> None:
    module = Plain(network())
    fit(module, ModelCheckpoint(tmp_path, filename="last"), enable_checkpointing=True, max_epochs=2).save_checkpoint(
        tmp_path / "after.ckpt"
    )
    results = []
    for name in ("last", "after"):
        resumed = Plain(network())
        with pytest.warns(UserWarning, match=SAID):
            fit(resumed, planned(), ckpt_path=tmp_path / f"{name}.ckpt", max_epochs=4)
        results.append(weights(resumed))
    assert torch.equal(*results)


def test_in_a_trainer_that_has_trained_without_it(tmp_path: Path) -> None:
    """The same trainer gets the callback for its second fit; Lightning makes a new optimizer, which forgets its momentum."""
    module, data = Plain(network()), DataLoader(Regression(), batch_size=7, shuffle=True)
    trainer = fit(module, loader=data, max_epochs=2)
    checkpoint = {"state_dict": {name: value.clone() for name, value in module.state_dict().items()}}
    batches = planned()
    trainer.callbacks.append(batches)  # type: ignore[attr-defined]
    trainer.fit_loop.max_epochs = 4
    with pytest.warns(UserWarning, match=SAID):
        trainer.fit(module, data)
    fresh = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3).state_dict()
    assert_equal_to_rounding(weights(module), by_hand({**checkpoint, "optimizer_states": [fresh]}, batches), 40 * N)


@pytest.mark.parametrize(
    ("options", "epoch"),
    [
        ({"hook": "batch_end", "batch": 4}, 1),
        ({"hook": "batch_end", "batch": 0}, 1),
        ({"hook": "epoch_start"}, 2),  # Lightning would leave this epoch out
    ],
)
def test_inside_an_epoch_it_is_refused(tmp_path: Path, options: dict[str, Any], epoch: int) -> None:
    path = tmp_path / "in.ckpt"
    fit(Plain(network()), SaveAt(path, **options), max_epochs=3)
    words = "began without BatchSizeScheduler", f"inside epoch {epoch}", "resume from the end of an epoch"
    error_of(lambda: fit(Plain(network()), planned(), ckpt_path=path), "ckpt_path", path, *words)


def test_after_a_limit_inside_an_epoch_it_is_refused(tmp_path: Path) -> None:
    fit(Plain(network()), max_steps=20).save_checkpoint(tmp_path / "in.ckpt")
    error_of(lambda: fit(Plain(network()), planned(), ckpt_path=tmp_path / "in.ckpt"), "ckpt_path", "inside epoch 1")
    trainer = fit(Plain(network()), max_steps=20)
    trainer.callbacks.append(planned())  # type: ignore[attr-defined]
    trainer.fit_loop.epoch_loop.max_steps = 40
    error_of(lambda: trainer.fit(Plain(network()), DataLoader(Regression())), "global_step", 20, "BatchSizeScheduler", "inside epoch 1")


def test_a_checkpoint_from_before_training_starts_at_zero(tmp_path: Path) -> None:
    class AtOnce(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "zero.ckpt")

    fit(Plain(network()), AtOnce(), max_epochs=1)
    whole, resumed = Plain(network()), Plain(network())
    fit(whole, planned())
    fit(resumed, planned(), ckpt_path=tmp_path / "zero.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_one_that_was_saved_with_it_says_nothing_and_a_second_resume_neither(tmp_path: Path) -> None:
    """Warnings are errors here."""
    fit(Plain(network()), SaveAt(tmp_path / "a.ckpt", "epoch_end"), max_epochs=2)
    with pytest.warns(UserWarning, match=SAID):
        fit(Plain(network()), planned(), max_epochs=3, ckpt_path=tmp_path / "a.ckpt").save_checkpoint(tmp_path / "b.ckpt")
    batches = planned()
    fit(Plain(network()), batches, max_epochs=4, ckpt_path=tmp_path / "b.ckpt")
    assert batches.examples_before == 3 * N


def test_a_monitor_alone_says_where_it_starts_to_count(tmp_path: Path) -> None:
    fit(Plain(network()), SaveAt(tmp_path / "a.ckpt", "epoch_end"), max_epochs=2)
    with pytest.warns(UserWarning, match=f"30 updates before were not observed.*examples_seen starts at N x epoch = {2 * N}"):
        fit(Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv"), ckpt_path=tmp_path / "a.ckpt", max_epochs=3)
    first = read_rows(tmp_path / "steps.csv")[0]
    assert (first["step"], float(first["epoch"]), first["examples_seen"]) == ("30", 2.0, str(2 * N))

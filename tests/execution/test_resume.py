"""A run that was interrupted and resumed is bitwise equal to an uninterrupted one, wherever the checkpoint was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Plain, Regression, Validated, network
from tests.helpers.rounding import assert_equal_to_rounding
from tests.helpers.trainings import GradientErrors, SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]

GROWING = batching.MultiStep(size=11, milestones=[0.7, 1.6], factor=2, last="partial")
CARRIED = batching.Linear(size=6, max_size=40, epochs=3, last="carry")


def planned(strategy: batching.BatchStrategy = GROWING, limit: int = 4) -> BatchSizeScheduler:
    return BatchSizeScheduler(strategy, schedules.Cosine(), max_micro_batch_size=limit, seed=5)


def uninterrupted(module: Plain, strategy: batching.BatchStrategy) -> torch.Tensor:
    fit(module, planned(strategy))
    return weights(module)


@pytest.mark.cases(3)
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    ("kind", "strategy", "workers"),
    [(Plain, GROWING, 0), (Plain, CARRIED, 0), (Validated, GROWING, 0), (Validated, CARRIED, 0), (Validated, GROWING, 2)],
)
def test_from_an_epochs_end(tmp_path: Path, kind: type[Plain], epoch: int, strategy: batching.BatchStrategy, workers: int) -> None:
    expected = uninterrupted(kind(network(dropout=0.3)), strategy)
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=kind is Plain)
    fit(kind(network(dropout=0.3)), planned(strategy), saver, enable_checkpointing=True)
    resumed = kind(network(dropout=0.3))
    trainer = fit(resumed, planned(strategy), ckpt_path=tmp_path / f"epoch={epoch}.ckpt", workers=workers)
    assert torch.equal(weights(resumed), expected)
    assert trainer.current_epoch == 3


@pytest.mark.cases(8)
@pytest.mark.parametrize("at", [1, 2, 3, 5, 7, 28, 29, 30, 31, 60])
@pytest.mark.parametrize("norm", [False, True], ids=["", "batch norm"])
@pytest.mark.parametrize("strategy", [GROWING, CARRIED], ids=["partial", "carry"])
def test_from_inside_a_window(tmp_path: Path, at: int, norm: bool, strategy: batching.BatchStrategy) -> None:
    expected = uninterrupted(Plain(network(dropout=0.3, norm=norm)), strategy)
    with pytest.raises(Stop):
        fit(Plain(network(dropout=0.3, norm=norm)), planned(strategy), SaveAndDie(at, tmp_path / "in.ckpt"))
    resumed = Plain(network(dropout=0.3, norm=norm))
    fit(resumed, planned(strategy), ckpt_path=tmp_path / "in.ckpt")
    assert torch.equal(weights(resumed), expected)


def test_those_checkpoints_really_lie_inside_windows(tmp_path: Path) -> None:
    inside = []
    for at in (1, 2, 3):
        with pytest.raises(Stop):
            fit(Plain(network()), planned(), SaveAndDie(at, tmp_path / f"{at}.ckpt"))
        checkpoint = torch.load(tmp_path / f"{at}.ckpt", weights_only=True)
        inside.append("partial_gradient" in checkpoint)
    assert inside == [True, True, False]  # 11 examples in 3 micro-batches of at most 4


@pytest.mark.cases(2)
@pytest.mark.parametrize("at", [0, 1, 2, 4, 29])
def test_from_an_exception_inside_a_micro_batch(tmp_path: Path, at: int) -> None:
    """The gradient may have been added in part, so the update is repeated from its first micro-batch."""
    expected = uninterrupted(Plain(network(dropout=0.3)), GROWING)
    with pytest.raises(Stop):
        fit(Plain(network(dropout=0.3)), planned(), SaveAndDie(at, tmp_path / "in.ckpt", "inside"))
    resumed = Plain(network(dropout=0.3))
    fit(resumed, planned(), ckpt_path=tmp_path / "in.ckpt")
    assert torch.equal(weights(resumed), expected)


def test_with_another_micro_batch_limit_the_result_is_the_same_to_rounding(tmp_path: Path) -> None:
    expected = uninterrupted(Plain(network()), GROWING)
    with pytest.raises(Stop):
        fit(Plain(network()), planned(), SaveAndDie(31, tmp_path / "in.ckpt"))
    resumed = Plain(network())
    fit(resumed, planned(limit=9), ckpt_path=tmp_path / "in.ckpt")
    assert_equal_to_rounding(weights(resumed), expected, 40 * N)  # 24 updates, each with a sum over at most 44 examples


def test_on_other_data_it_is_refused(tmp_path: Path) -> None:
    class Fewer(Regression):
        def __len__(self) -> int:
            return N - 1

    with pytest.raises(Stop):
        fit(Plain(network()), planned(), SaveAndDie(4, tmp_path / "in.ckpt"))
    with pytest.raises(ConfigError, match=f"num_examples={N - 1}: the checkpoint was trained on {N}"):
        fit(Plain(network()), planned(), data=Fewer(), ckpt_path=tmp_path / "in.ckpt")


def test_training_goes_on_beyond_its_first_end(tmp_path: Path) -> None:
    fixed = batching.Fixed(size=11)
    whole = Plain(network(dropout=0.3))
    fit(whole, BatchSizeScheduler(fixed, seed=5), max_epochs=4)
    part = Plain(network(dropout=0.3))
    trainer = fit(part, BatchSizeScheduler(fixed, seed=5), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    fit(part, BatchSizeScheduler(fixed, seed=5), max_epochs=4, ckpt_path=tmp_path / "end.ckpt")
    assert torch.equal(weights(part), weights(whole))


@pytest.mark.parametrize("at", [2, 28, 31])
def test_the_rows_of_a_resumed_run_are_those_of_the_whole(tmp_path: Path, at: int) -> None:
    fit(Plain(network(dropout=0.3)), planned(), NoiseScaleMonitor(tmp_path / "whole.csv"))
    with pytest.raises(Stop):
        fit(Plain(network(dropout=0.3)), planned(), NoiseScaleMonitor(tmp_path / "parts.csv"), SaveAndDie(at, tmp_path / "in.ckpt"))
    with (tmp_path / "parts.csv").open("a") as file:
        file.write("97,1.0,5,")  # a line that was cut off by a crash
    fit(Plain(network(dropout=0.3)), planned(), NoiseScaleMonitor(tmp_path / "parts.csv"), ckpt_path=tmp_path / "in.ckpt")
    assert read_rows(tmp_path / "parts.csv") == read_rows(tmp_path / "whole.csv")


@pytest.mark.parametrize(
    "other",
    [
        {"micro_batch_multiple": 2},
        {"strategy": batching.Fixed(size=7)},
        {"max_micro_batch_size": 3},
    ],
    ids=["multiple", "size", "limit"],
)
def test_a_gradient_of_other_pieces_is_not_used(tmp_path: Path, other: dict[str, Any]) -> None:
    """8 examples in two micro-batches; the checkpoint has the gradient of the first one, which no other cut has."""
    options: dict[str, Any] = {"strategy": batching.Fixed(size=8), "max_micro_batch_size": 4, "seed": 5}
    with pytest.raises(Stop):
        fit(Plain(network()), BatchSizeScheduler(**options), SaveAndDie(1, tmp_path / "in.ckpt"))
    errors = GradientErrors(Regression())
    fit(Plain(network()), BatchSizeScheduler(**{**options, **other}), errors, ckpt_path=tmp_path / "in.ckpt")
    assert max(errors.errors) < 1e-14


def test_another_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(Plain(network()), planned(), SaveAndDie(7, tmp_path / "in.ckpt"))
    with pytest.raises(ConfigError, match=r"^seed=6: the checkpoint was trained with seed=5, which decides the order of the examples"):
        fit(Plain(network()), BatchSizeScheduler(GROWING, schedules.Cosine(), seed=6), ckpt_path=tmp_path / "in.ckpt")


@pytest.mark.parametrize("lacking", ["seed", "sampling", "pieces"])
def test_a_checkpoint_of_a_version_that_saved_less_is_refused(tmp_path: Path, lacking: str) -> None:
    with pytest.raises(Stop):
        fit(Plain(network()), planned(), SaveAndDie(7, tmp_path / "in.ckpt"))
    checkpoint = torch.load(tmp_path / "in.ckpt", weights_only=True)
    del checkpoint["callbacks"]["BatchSizeScheduler"][lacking]
    torch.save(checkpoint, tmp_path / "in.ckpt")
    with pytest.raises(ConfigError, match=rf"does not say it \({lacking}\), because another version of noisescale saved it"):
        fit(Plain(network()), planned(), ckpt_path=tmp_path / "in.ckpt")


def test_what_a_failed_fit_has_loaded_is_not_used_by_the_next(tmp_path: Path) -> None:
    class Fails(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            raise Stop

    with pytest.raises(Stop):
        fit(Plain(network(norm=True)), planned(), SaveAndDie(7, tmp_path / "in.ckpt"))
    used, unused = planned(), planned()
    with pytest.raises(Stop):
        fit(Plain(network(norm=True)), used, Fails(), ckpt_path=tmp_path / "in.ckpt")
    modules = [Plain(network(norm=True)), Plain(network(norm=True))]
    for module, batches in zip(modules, (used, unused), strict=True):
        fit(module, batches, max_steps=2)
    for one, other in zip(modules[0].state_dict().values(), modules[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_scheduler_of_another_trainer_starts_anew() -> None:
    used = planned()
    fit(Plain(network()), used, max_steps=5)
    module, expected = Plain(network()), Plain(network())
    fit(module, used)
    fit(expected, planned())
    assert torch.equal(weights(module), weights(expected))

"""A plan that is decided during the training: the same run whatever the workers, the interruptions and the devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale, NoiseScaleMonitor
from noisescale.errors import ConfigError
from noisescale.execution.planned_batches import PlannedBatches
from noisescale.files import read_rows
from noisescale.plans import Fixed, FollowNoise, GrowOnPlateau, Plan
from noisescale.schedules import Constant, Plateau
from tests.helpers.decisions_job import CASES
from tests.helpers.processes import results_of_ranks
from tests.helpers.regression import N, Plain, Regression, Validated, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]

each = pytest.mark.parametrize(
    "case", ["gns", pytest.param("plateau", marks=pytest.mark.slow), pytest.param("dual", marks=pytest.mark.slow)]
)


def train(case: str, path: Path, *more: pl.Callback, **options: Any) -> tuple[Validated, pl.Trainer]:
    strategy, schedule = CASES[case]
    module = Validated(network(dropout=0.2))
    batches = BatchSizeScheduler(strategy, schedule, seed=3, split_every=3, check_cuts=False)
    noise = GradientNoiseScale(path=False)
    trainer = fit(module, batches, *more, noise, NoiseScaleMonitor(path), **{"max_epochs": 5, **options})
    return module, trainer


def sizes(path: Path) -> list[int]:
    """B of the first update of each epoch."""
    first: dict[int, int] = {}
    for row in read_rows(path):
        first.setdefault(int(float(row["epoch"])), int(row["effective_batch_size"]))
    return list(first.values())


@each
def test_it_is_decided_between_the_passes(case: str, tmp_path: Path) -> None:
    _, trainer = train(case, tmp_path / "steps.csv")
    (batches,) = (each for each in trainer.callbacks if isinstance(each, BatchSizeScheduler))  # type: ignore[attr-defined]
    found = sizes(tmp_path / "steps.csv")
    assert len(set(found)) > 1
    assert batches.loader is not None
    assert [epoch for epoch, _ in batches.loader.observed] == [1, 2, 3, 4, 5]
    steps = [(int(row["effective_batch_size"]), float(row["lr"])) for row in read_rows(tmp_path / "steps.csv")]
    planned = [(update.effective_batch_size, 0.1 * update.lr_factor) for update in batches.plan]
    assert [size for size, _ in steps] == [size for size, _ in planned]  # as decided in the end, so nothing was changed afterwards
    assert [lr for _, lr in steps] == pytest.approx([lr for _, lr in planned])


@pytest.mark.slow
@each
def test_it_does_not_depend_on_the_workers(case: str, tmp_path: Path) -> None:
    kept = DataLoader(Regression(), batch_size=7, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=9)
    options: list[dict[str, Any]] = [{"workers": 0}, {"workers": 1}, {"workers": 2}, {"loader": kept}]
    trained = [train(case, tmp_path / f"{number}.csv", **each)[0] for number, each in enumerate(options)]
    assert all(torch.equal(weights(trained[0]), weights(module)) for module in trained[1:])
    assert len({(tmp_path / f"{number}.csv").read_text() for number in range(len(options))}) == 1


@pytest.mark.parametrize("at", [40, *(pytest.param(at, marks=pytest.mark.slow) for at in (2, 26, 27, 28, 29, 30, 31, 60))])
@each
def test_it_resumes_from_any_micro_batch(case: str, at: int, tmp_path: Path) -> None:
    whole, _ = train(case, tmp_path / "whole.csv")
    with pytest.raises(Stop):
        train(case, tmp_path / "resumed.csv", SaveAndDie(at, tmp_path / "in.ckpt"))
    resumed, _ = train(case, tmp_path / "resumed.csv", ckpt_path=tmp_path / "in.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    assert (tmp_path / "resumed.csv").read_text() == (tmp_path / "whole.csv").read_text()


@pytest.mark.parametrize("at_end", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["after validation", "at the end"])
@each
def test_it_resumes_from_the_end_of_an_epoch_before_and_after_the_decision(case: str, at_end: bool, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=at_end)
    whole, _ = train(case, tmp_path / "whole.csv", saver, enable_checkpointing=True)
    for epoch in (1, 3):
        resumed, _ = train(case, tmp_path / f"{epoch}.csv", ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert torch.equal(weights(resumed), weights(whole))
        assert sizes(tmp_path / f"{epoch}.csv") == sizes(tmp_path / "whole.csv")[epoch + 1 :]


@pytest.mark.slow
@each
def test_a_stop_inside_an_epoch_decides_nothing(case: str, tmp_path: Path) -> None:
    whole, _ = train(case, tmp_path / "whole.csv")
    _, trainer = train(case, tmp_path / "steps.csv", max_steps=30)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed, _ = train(case, tmp_path / "steps.csv", ckpt_path=tmp_path / "stopped.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_an_epoch_without_a_validation_is_no_reading(tmp_path: Path) -> None:
    _, trainer = train("plateau", tmp_path / "steps.csv", check_val_every_n_epoch=2)
    (batches,) = (each for each in trainer.callbacks if isinstance(each, BatchSizeScheduler))  # type: ignore[attr-defined]
    assert batches.loader is not None
    assert [epoch for epoch, values in batches.loader.observed if values] == [2, 4]


def test_another_run_with_the_same_callback_starts_anew() -> None:
    strategy, schedule = CASES["plateau"]
    batches, found = BatchSizeScheduler(strategy, schedule, seed=3), []
    for _ in range(2):
        module = Validated(network())
        fit(module, batches, max_epochs=4)
        found.append(weights(module))
    assert torch.equal(*found)


# -- refusals -------------------------------------------------------------------------------------------------------------------


def test_what_it_goes_by_must_be_measured() -> None:
    with pytest.raises(ConfigError, match=r"goes by noise/gns, which no callback measures; add GradientNoiseScale\(\)"):
        fit(Plain(network()), BatchSizeScheduler(FollowNoise(5)))
    with pytest.raises(ConfigError, match="monitor=val/loss: there is no validation; give the trainer validation data"):
        fit(Plain(network()), BatchSizeScheduler(GrowOnPlateau(5)))
    with pytest.raises(ConfigError, match="monitor=val/f1: there is no such metric; there are val/loss"):
        fit(Validated(network()), BatchSizeScheduler(Fixed(5), Plateau("val/f1")))


def test_a_loop_of_ones_own_cannot_hand_it_over() -> None:
    with pytest.raises(ConfigError, match="plan=noise/gns and noise/gns_low: a loop of one's own does not hand over what it goes by"):
        PlannedBatches(Plan(Constant(), FollowNoise(5), N, 3), DataLoader(Regression(), batch_size=4))


# -- several devices ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_decide_what_one_decides(tmp_path: Path) -> None:
    found = {}
    for world in (1, 2):
        jobs = [{"case": case, "world": world, "csv": str(tmp_path / f"{world}-{case}.csv")} for case in CASES]
        found[world] = results_of_ranks("tests.helpers.decisions_job", jobs, world)
    for case, (one,), (first, second) in zip(CASES, found[1], found[2], strict=True):
        assert first["observed"] == second["observed"]
        assert [values for _, values in first["observed"]] == [pytest.approx(values, rel=1e-9) for _, values in one["observed"]]
        assert first["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-12)
        assert sizes(tmp_path / f"1-{case}.csv") == sizes(tmp_path / f"2-{case}.csv")

"""Memory runs out in a training: the state after the last whole update is saved, and half the micro-batch goes on with the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor, SaveOnOutOfMemory
from noisescale.execution.memory import is_out_of_memory
from noisescale.execution.out_of_memory import MemoryFault, fault_of
from noisescale.files import read_rows
from noisescale.plans.strategies import BatchStrategy, Fixed, MultiStep
from tests.helpers.hungry import ERRORS, Hungry, HungryInDouble
from tests.helpers.own import examples
from tests.helpers.rounding import assert_equal_to_rounding
from tests.helpers.trainings import ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]

N, EPOCHS = 100, 3
DOUBLING = MultiStep(size=5, milestones=[1, 2], factor=2)
"""Updates of 5, 10 and 20 examples, each for an epoch."""


def loaders(workers: int = 0) -> list[Any]:
    """Of training and validation."""
    return [DataLoader(examples(N), batch_size=7, shuffle=True, num_workers=workers), DataLoader(examples(20), batch_size=20)]


def trained(module: pl.LightningModule, strategy: BatchStrategy, limit: int | None, folder: Path, **options: Any) -> pl.Trainer:
    """Train with the files of a run in `folder`, from `options["ckpt_path"]` if that is given."""
    ckpt_path, workers, more = options.pop("ckpt_path", None), options.pop("workers", 0), options.pop("callbacks", [])
    batches = BatchSizeScheduler(strategy, schedules.Cosine(), max_micro_batch_size=limit, seed=5, check_cuts=False)
    callbacks = [batches, NoiseScaleMonitor(folder / "steps.csv"), *more, SaveOnOutOfMemory(folder / "last.ckpt")]
    trainer = quiet_trainer(*callbacks, max_epochs=EPOCHS, **options)
    data, validation = loaders(workers)
    trainer.fit(module, data, validation, ckpt_path=ckpt_path)
    return trainer


def fault_in(module: pl.LightningModule, strategy: BatchStrategy, limit: int | None, folder: Path, **options: Any) -> MemoryFault:
    """What is known of the error that ends the training."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any of `ERRORS`
        trained(module, strategy, limit, folder, **options)
    assert is_out_of_memory(caught.value), caught.value
    fault = fault_of(caught.value)
    assert fault is not None
    assert any("memory ran out" in note for note in caught.value.__notes__)
    return fault


def steps(folder: Path) -> list[dict[str, str]]:
    return read_rows(folder / "steps.csv")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("backward", "cuda"),
        *(pytest.param("forward", error, marks=pytest.mark.slow) for error in ("cuda", "cpu", "python", "cublas")),
    ],
)
def test_half_the_micro_batch_goes_on_with_the_same_run_bit_for_bit(place: str, error: str, tmp_path: Path) -> None:
    """All updates before were small enough to be whole with the smaller limit, too."""
    smaller = HungryInDouble(limit=10)
    trained(smaller, DOUBLING, 10, tmp_path / "smaller")
    fault = fault_in(HungryInDouble(limit=10, place=place, error=error), DOUBLING, None, tmp_path / "run")
    assert fault == MemoryFault(30, "micro-batch", 20, 10, fault.reason, saved=str(tmp_path / "run" / "last.ckpt"))
    assert len(steps(tmp_path / "run")) == 30
    resumed = HungryInDouble(limit=10)
    trained(resumed, DOUBLING, fault.half, tmp_path / "run", ckpt_path=fault.saved)
    assert torch.equal(weights(resumed), weights(smaller))
    assert steps(tmp_path / "run") == steps(tmp_path / "smaller")


@pytest.mark.parametrize("after", [8, *(pytest.param(after, marks=pytest.mark.slow) for after in (0, 1, 7, 13))])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_half_the_micro_batch_goes_on_with_the_same_run_to_rounding(after: int, workers: int, tmp_path: Path) -> None:
    """The updates before were cut otherwise. Memory runs out at the first or a later micro-batch of the first or a later update."""
    smaller = HungryInDouble(limit=5)
    trained(smaller, Fixed(size=20), 5, tmp_path / "smaller")
    fault = fault_in(HungryInDouble(limit=9, after=after), Fixed(size=20), 10, tmp_path / "run", workers=workers)
    assert (fault.update, fault.place, fault.size, fault.half) == (after // 2, "micro-batch", 10, 5)
    resumed = HungryInDouble(limit=9)
    trained(resumed, Fixed(size=20), fault.half, tmp_path / "run", ckpt_path=fault.saved, workers=workers)
    if after < 2:  # no update was done before
        assert torch.equal(weights(resumed), weights(smaller))
    assert_equal_to_rounding(weights(resumed), weights(smaller), 50 * EPOCHS * N // 20)
    for mine, other in zip(steps(tmp_path / "run"), steps(tmp_path / "smaller"), strict=True):
        assert float(mine["loss"]) == pytest.approx(float(other["loss"]), rel=1e-12)
        assert mine["examples_seen"] == other["examples_seen"]
        assert mine["lr"] == other["lr"]


@pytest.mark.slow
def test_with_the_same_micro_batch_it_is_the_same_run_bit_for_bit(tmp_path: Path) -> None:
    """As when the memory was another program's, and is free again."""
    whole = HungryInDouble(limit=99)
    trained(whole, Fixed(size=20), 10, tmp_path / "whole")
    fault = fault_in(HungryInDouble(limit=9, after=13), Fixed(size=20), 10, tmp_path / "run")
    resumed = HungryInDouble(limit=99)
    trained(resumed, Fixed(size=20), 10, tmp_path / "run", ckpt_path=fault.saved)
    assert torch.equal(weights(resumed), weights(whole))
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")


WITH_AVERAGES = pytest.mark.skipif(not hasattr(pl.callbacks, "EMAWeightAveraging"), reason="needs Lightning 2.6")


@pytest.mark.parametrize("average", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=WITH_AVERAGES)])
def test_in_a_validation_which_is_repeated(average: bool, tmp_path: Path) -> None:
    more: list[Any] = [{"callbacks": [pl.callbacks.EMAWeightAveraging(decay=0.5)]} if average else {} for _ in range(3)]
    whole = HungryInDouble(limit=99)
    expected = trained(whole, Fixed(size=20), 10, tmp_path / "whole", val_check_interval=2, **more[0])
    fault = fault_in(HungryInDouble(limit=9, after=13, place="validation"), Fixed(size=20), 10, tmp_path, val_check_interval=2, **more[1])
    assert (fault.update, fault.place, fault.half) == (7, "validation", None)
    resumed = HungryInDouble(limit=99)
    found = trained(resumed, Fixed(size=20), 10, tmp_path, val_check_interval=2, ckpt_path=fault.saved, **more[2])
    assert torch.equal(weights(resumed), weights(whole))
    assert found.callback_metrics["val_error"] == expected.callback_metrics["val_error"]


def test_a_step_that_may_have_changed_some_weights_leaves_the_checkpoint_from_before(tmp_path: Path) -> None:
    fault = fault_in(Hungry(limit=9, after=13, place="step"), Fixed(size=20), 10, tmp_path)
    assert (fault.update, fault.place, fault.half, fault.saved) == (6, "optimizer step", None, None)
    assert not (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize("size", [1, 3])
def test_what_cannot_be_halved(size: int, tmp_path: Path) -> None:
    """One example, and the three that batch norm needs where updates are cut."""

    class Norm(Hungry):
        def __init__(self) -> None:
            super().__init__(limit=0)
            self.norm = torch.nn.BatchNorm1d(3)

        def error(self, batch: Any) -> torch.Tensor:
            return super().error((self.norm(batch[0]), batch[1]))

    module = Hungry(limit=0) if size == 1 else Norm()
    fault = fault_in(module, Fixed(size=20), size, tmp_path)
    assert (fault.size, fault.half) == (size, None)


def test_the_half_of_ghost_batches_is_whole_ones(tmp_path: Path) -> None:
    batches = BatchSizeScheduler(Fixed(size=48), max_micro_batch_size=48, micro_batch_multiple=16, check_cuts=False)
    trainer = quiet_trainer(batches, SaveOnOutOfMemory(tmp_path / "last.ckpt"))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer.fit(Hungry(limit=9), *loaders())
    fault = fault_of(caught.value)
    assert fault is not None
    assert (fault.size, fault.half) == (48, 16)


@pytest.mark.parametrize("error", ERRORS)
def test_which_errors_say_that_memory_has_run_out(error: str) -> None:
    assert is_out_of_memory(ERRORS[error]()) is (error != "a fault of the code")


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught:
        trained(Hungry(limit=9, error="a fault of the code"), Fixed(size=20), 10, tmp_path)
    assert fault_of(caught.value) is None
    assert not (tmp_path / "last.ckpt").exists()


def test_a_disk_that_is_full_as_well_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("noisescale.execution.out_of_memory.save_alone", full)
    fault = fault_in(Hungry(limit=9), Fixed(size=20), 10, tmp_path)
    assert fault.saved is None


def test_without_a_plan_nothing_is_saved(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        quiet_trainer(SaveOnOutOfMemory(tmp_path / "last.ckpt")).fit(Hungry(limit=0), *loaders())
    assert fault_of(caught.value) is None
    assert not (tmp_path / "last.ckpt").exists()

"""`val_check_interval` counts updates of the plan, or examples of the epoch, and never micro-batches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from noisescale.callbacks import BatchSizeScheduler
from noisescale.errors import ConfigError
from noisescale.execution.validations import ValidationTimes
from noisescale.plans import strategies as batching
from tests.helpers.regression import Regression, Validated, network
from tests.helpers.trainings import fit, ignored, quiet_trainer, scheduler_of

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

TEN = batching.Fixed(size=10, last="partial")
"""11 updates in each of three epochs, the last of three examples."""


class Times(pl.Callback):
    """The numbers of updates after which the run was validated."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at.append(trainer.global_step)


def validated(strategy: batching.BatchStrategy, limit: int | None = None, **options: Any) -> list[int]:
    times = Times()
    trainer = fit(Validated(network()), BatchSizeScheduler(strategy, max_micro_batch_size=limit), times, **options)
    assert trainer.val_check_interval == options["val_check_interval"]  # it is the user's again
    return times.at


@pytest.mark.cases(5)
@pytest.mark.parametrize("limit", [None, 4, 1])
@pytest.mark.parametrize(
    ("interval", "every", "expected"),
    [
        (4, 1, [4, 8, 15, 19, 26, 30]),
        (1, 2, list(range(12, 23))),
        (11, 1, [11, 22, 33]),
        (7, None, [7, 14, 21, 28]),
        (40, None, []),
        (0.5, 1, [6, 11, 17, 22, 28, 33]),
        (0.3, 1, [4, 7, 10, 15, 18, 21, 26, 29, 32]),
        (1.0, 1, [11, 22, 33]),
    ],
)
def test_the_memory_limit_does_not_move_a_validation(limit: int | None, interval: float, every: int | None, expected: list[int]) -> None:
    assert validated(TEN, limit, val_check_interval=interval, check_val_every_n_epoch=every) == expected


@pytest.mark.parametrize("interval", [5, 0.5])
def test_epochs_may_become_shorter_than_the_interval(interval: float) -> None:
    growing = batching.MultiStep(size=10, milestones=[1, 2], factor=3)  # 11, 4 and 2 updates
    assert validated(growing, 7, val_check_interval=interval) == ([5, 10, 15, 17] if interval == 5 else [6, 11, 13, 15, 16, 17])


def test_a_fraction_is_of_the_examples_that_the_epoch_has() -> None:
    assert validated(TEN, val_check_interval=0.5, limit_train_batches=4) == [2, 4, 6, 8, 10, 12]
    assert validated(batching.Fixed(size=10, last="drop"), val_check_interval=0.5) == [5, 10, 15, 20, 25, 30]


def test_a_fraction_of_an_epoch_that_begins_with_the_last_pass() -> None:
    """With carry the epochs have 11, 10 and 10 updates of 10."""
    assert validated(batching.Fixed(size=10, last="carry"), val_check_interval=0.5) == [6, 11, 16, 21, 26, 31]


def test_callbacks_see_that_it_is_not_the_end_of_an_epoch() -> None:
    """Lightning takes `val_check_interval == 1.0` for that, whether it is a number of updates or a fraction."""
    stopping = EarlyStopping("val/loss", patience=2, min_delta=100.0)
    trainer = fit(Validated(network()), BatchSizeScheduler(TEN), stopping, val_check_interval=1)
    assert trainer.global_step == 3


def test_an_interval_that_no_epoch_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match="val_check_interval=12: the first epoch has 11 updates; give at most 11, or check_val_every"):
        validated(TEN, val_check_interval=12)
    fit(Validated(network()), BatchSizeScheduler(TEN), val_check_interval=12, limit_val_batches=0)  # nothing is validated


@pytest.mark.parametrize("interval", ["00:00:00:01", {"seconds": 1}])
def test_a_time_is_refused(interval: Any) -> None:
    with pytest.raises(ConfigError, match="val_check_interval=1 s: is neither a number of updates nor a fraction of an epoch; give"):
        fit(Validated(network()), BatchSizeScheduler(TEN), val_check_interval=interval)


def test_the_number_that_lightning_sees() -> None:
    """0, so that it is neither 1.0 nor longer than an epoch; but not a divisor."""
    trainer = quiet_trainer(BatchSizeScheduler(TEN), max_steps=6)
    trainer.fit(Validated(network()), DataLoader(Regression()))
    loader = scheduler_of(trainer).loader
    assert loader is not None
    times = ValidationTimes(0.5, False, loader)
    assert (isinstance(times, int), int(times), 5 % times, repr(times)) == (True, 0, 0, "ValidationTimes(0.5)")
    loader.micro_batches_done = 1
    assert 5 % times == 1
    assert 5 % copy.copy(times) == 1

"""Short trainings: they have the whole schedule and the warm-up of the training, and end where there is no time for the next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from noisescale.errors import ConfigError
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.plans import Fixed, GrowOnPlateau
from noisescale.schedules import Constant, Cosine, MultiStep, Schedule, Warmup
from noisescale.studies import branches, rate_trials, recommend
from noisescale.studies.facts import Facts
from noisescale.studies.speeds import evaluation_of, speeds_of
from noisescale.studies.training import Training
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

FACTS = Facts(N, "SGD", 0.05, 1, None, "cpu")


class Watched(Plain):
    """Keeps the learning rate of each update."""

    def __init__(self) -> None:
        super().__init__(network(), lambda parameters: torch.optim.SGD(parameters, lr=0.05))
        self.rates: list[float] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        self.rates.append(optimizer.param_groups[0]["lr"])


def training(schedule: Schedule, **options: Any) -> Training:
    data = DataLoader(Regression(), batch_size=7, shuffle=True)
    return Training(Watched(), data, Fixed(size=8, last="carry"), schedule, 40, 0, {}, {"accelerator": "cpu"}, **options)


@pytest.mark.parametrize(
    "schedule",
    [
        Warmup(4, 0.1).before(Cosine(), 40),
        Warmup(4, 0.1, mode="shift").before(Cosine(), 40),
        MultiStep([20, 30], 0.1),
        Cosine(T_max=20),
        Constant(),
    ],
    ids=str,
)
def test_a_short_training_has_the_whole_schedule_and_the_warm_up(schedule: Schedule) -> None:
    """After k of 10 updates the rate is that of epoch 40 k/10: the schedule is that of the user, not a cosine of the study."""
    short = training(schedule)
    loss = rate_trials.short_training(short, FACTS, 0.2, 8, 10, 0, FixedExamples(64))
    assert math.isfinite(loss)
    whole = schedule.with_horizon(40)
    expected = [0.2 * whole(40 * k / 10) for k in range(10)]
    assert short.module.rates == pytest.approx(expected)


def counting(yes: int) -> Any:
    answers: Iterator[bool] = iter([True] * yes + [False] * 99)
    return lambda _: next(answers)


@pytest.mark.parametrize(("yes", "seeds"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_a_seed_that_not_all_rates_have_is_left_out(yes: int, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_trials, "short_training", lambda _, __, rate, *others: rate + others[2])
    found = rate_trials.rate_trials(training(Cosine()), FACTS, [0.1, 0.2], 8, 10, 2, FixedExamples(64), may_begin=counting(yes))
    assert [each.losses for each in found] == [tuple(rate + seed for seed in range(seeds)) for rate in (0.1, 0.2) if seeds]


def test_sizes_that_there_is_no_time_for_have_no_speed() -> None:
    speeds, start = speeds_of(training(Cosine()), [4, 8, 16], 0.01, rounds=1, may_begin=counting(1))
    assert [each.batch_size for each in speeds] == [4, 8]
    assert start > 0


def test_evaluations_are_timed() -> None:
    fixed, each = evaluation_of(training(Cosine()), 8)
    assert fixed >= 0
    assert each >= 0
    assert 0 < fixed + 100 * each < 5


# -- what the command line refuses, the function refuses, too -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "options", "problem"),
    [
        (Fixed(size=8, lr_rule="linear", reference_size=4), {}, "lr_rule=linear: would scale the learning rate of each batch a second"),
        (GrowOnPlateau(size=8), {}, "batch=GrowOnPlateau: is decided during the training"),
        (8, {"trainer": {"max_steps": 5}}, "trainer.max_steps=5: is decided by the study; leave it out"),
        (8, {"trainer": {"max_time": "00:00:01:00"}}, "trainer.max_time=00:00:01:00: is decided by the study"),
        (8, {"trainer": {"limit_train_batches": 3}}, "trainer.limit_train_batches=3: is decided by the study"),
        (8, {"trainer": {"max_epochs": 3}}, "trainer.max_epochs=3: is decided by the study"),
        (8, {"trainer": {"devices": 2}}, "trainer.devices=2: a study runs on one device"),
        (8, {"epochs": 0}, "epochs=0: must be a whole number of epochs, at least 1"),
    ],
    ids=str,
)
def test_what_a_recommendation_cannot_do_is_refused(batch: Any, options: dict[str, Any], problem: str) -> None:
    data = DataLoader(Regression(), batch_size=7, shuffle=True)
    with pytest.raises(ConfigError, match=problem):
        recommend(Watched(), data, batch, **{"schedule": Cosine(), **options})


def test_times_beside_a_checkpoint_are_refused() -> None:
    data = DataLoader(Regression(), batch_size=7, shuffle=True)
    with pytest.raises(ConfigError, match=r"at=\[1\]: the branches begin at a checkpoint; leave it out"):
        branches(Watched(), data, 8, at=[1], ckpt_path="some.ckpt")

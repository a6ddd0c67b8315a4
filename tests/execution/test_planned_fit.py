"""A trainer is as before after a fit with a plan, and can fit again."""

from __future__ import annotations

import pytest

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.plans import strategies as batching
from tests.helpers.regression import STRATEGIES, Plain, loader, network
from tests.helpers.trainings import Rates, fit, ignored, scheduler_of

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def test_a_trainer_is_as_before_after_a_fit_and_can_fit_again() -> None:
    scheduler = BatchSizeScheduler(batching.Fixed(size=10))
    module = Plain(network())
    data = loader(batch_size=50, shuffle=True)
    trainer = fit(module, scheduler, loader=data, max_epochs=1)
    assert getattr(trainer, "reload_dataloaders_every_n_epochs", None) == 0
    assert trainer.fit_loop._data_source.instance is data
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, data)
    assert scheduler_of(trainer).plan.epochs == 2


def test_a_second_fit_goes_on_where_the_first_stopped() -> None:
    rates, whole = Rates(), Rates()
    scheduler = BatchSizeScheduler(STRATEGIES["ramp"], schedules.Cosine(T_max=4), max_micro_batch_size=4)
    module = Plain(network(dropout=0.2))
    data = loader(shuffle=True)
    trainer = fit(module, scheduler, rates, loader=data, max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, data)
    alone = Plain(network(dropout=0.2))
    fit(alone, BatchSizeScheduler(STRATEGIES["ramp"], schedules.Cosine(T_max=4), max_micro_batch_size=4), whole, max_epochs=4)
    assert rates.rates == whole.rates
    assert module.seen == alone.seen  # the weights do differ, because Lightning makes a new optimizer, whose momentum starts at 0

"""In `configure_optimizers` both the trainer and the plan say how many updates there will be, as OneCycleLR wants to know."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.estimate import PlannedCount
from noisescale.execution.window import Window
from noisescale.plans import Dual
from noisescale.plans import strategies as batching
from tests.helpers.refusals import error_of
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.trainings import Rates, SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

GROWING = batching.MultiStep(size=8, milestones=[1], factor=3)


class OneCycle(Plain):
    """Its scheduler has the length that `count` gives, and raises an error in a longer training."""

    def __init__(self, count: Callable[[pl.Trainer], float] = lambda trainer: trainer.estimated_stepping_batches) -> None:
        super().__init__(network(dropout=0.3))
        self.count = count
        self.counted: float = 0

    def configure_optimizers(self) -> Any:
        self.counted = self.count(self.trainer)
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(self.counted))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def planned(strategy: batching.BatchStrategy = GROWING, **options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(strategy, max_micro_batch_size=4, **options)


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("limits", "strategy", "updates"),
    [
        ({}, GROWING, 13 + 5 + 5),  # 103 examples in eights, then in twenty-fours
        ({"max_steps": 17}, GROWING, 17),
        ({"max_steps": 17, "max_epochs": -1}, GROWING, 17),
        ({"limit_train_batches": 2}, GROWING, 6),
        ({}, batching.Linear(size=10, max_size=103, epochs=2, last="carry"), 8),
        ({"max_epochs": 1}, batching.Full(), 1),
    ],
)
def test_both_numbers_are_the_updates_that_are_made(limits: dict[str, Any], strategy: batching.BatchStrategy, updates: int) -> None:
    batches = planned(strategy)
    for count in (lambda trainer: trainer.estimated_stepping_batches, lambda trainer: batches.plan.total_updates()):
        module = OneCycle(count)
        rates = Rates()
        trainer = fit(module, batches, rates, **limits)
        assert module.counted == trainer.global_step == updates
        assert updates == 1 or rates.rates[-1] == pytest.approx([0.1 / 25 / 1e4])  # the cycle ends with the last update
    assert type(trainer.accumulate_grad_batches) is int


def test_the_formula_written_out_is_the_number_too_and_other_multiples_are_their_own() -> None:
    found: list[int] = []

    def by_hand(trainer: pl.Trainer) -> int:
        found.append(math.ceil(120 / trainer.accumulate_grad_batches) * 7)
        return math.ceil(26 / trainer.accumulate_grad_batches) * trainer.max_epochs  # type: ignore[operator]

    module = OneCycle(by_hand)
    fit(module, planned())
    assert (module.counted, found) == (23, [840])


def test_the_number_is_known_during_training_too() -> None:
    class Asks(pl.Callback):
        answers: ClassVar[set[float]] = set()

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.answers.add(trainer.estimated_stepping_batches)

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.answers.add(trainer.estimated_stepping_batches)

    asks = Asks()
    fit(Plain(network()), planned(), asks)
    assert asks.answers == {23}


@pytest.mark.cases(2)
@pytest.mark.parametrize("where", ["batch_end", "inside"])
@pytest.mark.parametrize("at", [2, 27, 33])
def test_asking_does_not_disturb_a_resumed_run(tmp_path: Path, at: int, where: str) -> None:
    """An update that is repeated makes its epoch longer than it was when `configure_optimizers` asked."""
    whole = OneCycle()
    fit(whole, planned())
    with pytest.raises(Stop):
        fit(OneCycle(), planned(), SaveAndDie(at, tmp_path / "in.ckpt", where))
    resumed = OneCycle()
    trainer = fit(resumed, planned(), ckpt_path=tmp_path / "in.ckpt")
    assert (trainer.global_step, resumed.counted) == (23, 23)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("count", [lambda batches, trainer: trainer.estimated_stepping_batches, lambda batches, _: batches.plan])
def test_where_the_optimizer_decides_it_is_said(count: Callable[[BatchSizeScheduler, pl.Trainer], Any]) -> None:
    class Asks(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.counted = count(batches, self.trainer)
            return torch.optim.Adam(self.net.parameters())

    batches = BatchSizeScheduler(Dual(8), schedules.Cosine())
    error_of(lambda: fit(Asks(network()), batches), "rule", "is not built yet", "rule='sgd'", "'adaptive'")

    settled = Asks(network())
    batches = BatchSizeScheduler(Dual(8, rule="sgd"), schedules.Cosine())
    trainer = fit(settled, batches)
    assert batches.plan.total_updates() == trainer.global_step
    assert settled.counted in (trainer.global_step, batches.plan)


def test_the_optimizer_of_an_earlier_fit_does_not_decide() -> None:
    """A trainer still has the optimizer of its last `fit` while it builds the next one."""
    batches = BatchSizeScheduler(Dual(8), schedules.Cosine())
    trainer = fit(Plain(network()), batches, max_epochs=1)
    module = OneCycle(lambda _: batches.plan.total_updates())
    trainer.fit_loop.max_epochs = 2
    error_of(lambda: trainer.fit(module, DataLoader(Regression())), "rule", "is not built yet")


def test_a_window_is_an_ordinary_number_in_every_other_way() -> None:
    window = Window(3, 5, PlannedCount(10, lambda: 99))
    assert 7 / window == 7 / 3
    assert math.ceil(7 / window) == 3
    assert math.ceil(7 / window) * 4 == 12
    assert math.ceil(7 / window) * 10 == 10 * math.ceil(7 / window) == 99
    assert (7 // window, window * 2, 5 % window) == (2, 6, 0)
    assert torch.tensor(6.0) / window == 2.0
    assert math.ceil(7 / Window(3, 5)) * 10 == 30

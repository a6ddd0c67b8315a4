"""A module's own scheduler that is not as long as the plan is said to be so before training, with both numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers

from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.horizons import horizon_warnings
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Plan
from noisescale.schedules import Constant
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

UPDATES, EPOCHS = 18, 3
"""Of 103 examples in twenties, three times."""
PLAN = Plan(Constant(), batching.Fixed(20), 103, EPOCHS, max_micro_batch_size=5)

Maker = Callable[[Optimizer], Any]


def lines(make: Maker, plan: Plan = PLAN, interval: str = "step", frequency: int = 1) -> list[str]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return horizon_warnings([LRSchedulerConfig(make(optimizer), interval=interval, frequency=frequency)], plan)


def one_cycle(steps: int) -> Maker:
    return lambda o: torch_schedulers.OneCycleLR(o, 0.1, total_steps=steps)


def cosine(steps: int) -> Maker:
    return lambda o: torch_schedulers.CosineAnnealingLR(o, steps)


def linear(start: float, end: float, steps: int) -> Maker:
    return lambda o: torch_schedulers.LinearLR(o, start, end, steps)


def warm_up_then_cosine(warm_up: int, steps: int) -> Maker:
    return lambda o: torch_schedulers.SequentialLR(o, [linear(0.1, 1, warm_up)(o), cosine(steps)(o)], [warm_up])


def chained(*makers: Maker) -> Maker:
    return lambda o: torch_schedulers.ChainedScheduler([make(o) for make in makers])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (one_cycle(1000), "OneCycleLR(total_steps=1000) is 1000 steps long, but with this plan it is stepped 18 times, once per update"),
        (one_cycle(17), "stepped 18 times, once per update, and raises an error after step 17"),
        (cosine(1000), "CosineAnnealingLR(T_max=1000) is 1000 steps long"),
        (cosine(9), "CosineAnnealingLR(T_max=9) is 9 steps long"),
        (linear(1.0, 0.0, 100), "LinearLR(total_iters=100) is 100 steps long"),
        (linear(1.0, 0.0, 10), "LinearLR(total_iters=10) is 10 steps long"),
        (linear(0.1, 1.0, 100), "LinearLR(total_iters=100) is 100 steps long"),
        (lambda o: torch_schedulers.PolynomialLR(o, 50), "PolynomialLR(total_iters=50) is 50 steps long"),
        (lambda o: torch_schedulers.ConstantLR(o, 0.1, 40), "ConstantLR(total_iters=40) is 40 steps long"),
        (lambda o: torch_schedulers.MultiStepLR(o, [10, 30]), "MultiStepLR(milestones=[10, 30]) is 30 steps long"),
        (lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 30), "CosineAnnealingWarmRestarts(T_0=30) is 30 steps long"),
        (warm_up_then_cosine(5, 500), "SequentialLR: 5 + CosineAnnealingLR(T_max=500) is 505 steps long"),
        (chained(linear(0.1, 1, 5), cosine(30)), "CosineAnnealingLR(T_max=30) is 30 steps long"),
    ],
)
def test_another_length_is_said_with_both_numbers(make: Maker, words: str) -> None:
    (line,) = lines(make)
    assert words in line
    assert f"stepped {UPDATES} times" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "make",
    [
        *(one_cycle(UPDATES), cosine(UPDATES), cosine(UPDATES - 1), linear(1, 0, UPDATES), linear(0.1, 1.0, 5)),
        *(warm_up_then_cosine(5, UPDATES - 5), chained(linear(0.1, 1, 5), cosine(UPDATES))),
        lambda o: torch_schedulers.MultiStepLR(o, [5, 10]),
        lambda o: torch_schedulers.StepLR(o, 5),
        lambda o: torch_schedulers.ExponentialLR(o, 0.9),
        lambda o: torch_schedulers.LambdaLR(o, lambda step: 1.0),
        lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 6),
        lambda o: torch_schedulers.ReduceLROnPlateau(o),
    ],
)
def test_nothing_is_said_of_a_length_that_fits_or_that_there_is_not(make: Maker) -> None:
    assert lines(make) == []


def test_beside_epochs_it_is_compared_with_epochs() -> None:
    (line,) = lines(cosine(UPDATES), interval="epoch")
    assert "is 18 steps long, but with this plan it is stepped 3 times, once per epoch" in line
    assert 'interval="step"' in line
    assert lines(cosine(EPOCHS), interval="epoch") == []
    (line,) = lines(cosine(30), Plan(Constant(), batching.Fixed(20), 103, 60), interval="epoch")
    assert 'interval="step"' not in line  # it is too short, so it was not meant to count updates


def test_a_plan_without_an_end_or_with_two_says_nothing_that_it_does_not_know() -> None:
    assert lines(cosine(5), Plan(Constant(), batching.Fixed(20), 103, None)) == []
    both = Plan(Constant(), batching.Fixed(20), 103, 3, max_updates=7)
    assert lines(cosine(7), both) == []
    assert "stepped 7 times" in lines(cosine(18), both)[0]
    assert lines(cosine(18), both, interval="epoch") == []


@pytest.mark.parametrize("frequency", [2, 3, 4, 7])
def test_the_steps_are_those_that_lightning_makes(frequency: int) -> None:
    """With a frequency Lightning counts micro-batches, and asks only where an update ends."""

    class Own(Plain):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
            self.scheduler = torch_schedulers.LinearLR(optimizer, 1.0, 0.5, total_iters=1000)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step", "frequency": frequency}}

    module = Own(network())
    batches = BatchSizeScheduler(batching.MultiStep(11, [1], 3), max_micro_batch_size=4)
    with pytest.warns(UserWarning, match=f"every {frequency} micro-batches") as caught:
        fit(module, batches)
    (line,) = (str(warning.message) for warning in caught if "steps long" in str(warning.message))
    assert f"is stepped {module.scheduler.last_epoch} times" in line


def test_a_training_says_it_once_and_none_that_fits_does() -> None:
    class Own(Plain):
        length = 1000

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": one_cycle(self.length)(optimizer), "interval": "step"}}

    with pytest.warns(UserWarning, match="steps long") as caught:
        fit(Own(network()), BatchSizeScheduler(batching.Fixed(20)))
    assert len([warning for warning in caught if "steps long" in str(warning.message)]) == 1
    Own.length = UPDATES
    with warnings.catch_warnings(record=True) as caught_now:
        warnings.simplefilter("always")
        fit(Own(network()), BatchSizeScheduler(batching.Fixed(20)))
    assert [str(warning.message) for warning in caught_now if "steps long" in str(warning.message)] == []

"""What a user has asked for and a plan does not do is said in a line, once; what is done is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.plans import CyclicBatch, Dual
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import fit, ignored, quiet_trainer

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def lines_of(training: Callable[[], object]) -> list[str]:
    """All warnings of a training but those of Lightning that do not matter."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for line in (line for line in ignored if SHORT not in line):
            warnings.filterwarnings("ignore", message=line.removeprefix("ignore:"))
        training()
    return [str(warning.message) for warning in caught]


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Regression(), batch_size=20, **options)


def in_batches(sampler: Sampler[int], drop_last: bool) -> DataLoader[Any]:
    return DataLoader(Regression(), batch_sampler=BatchSampler(sampler, 20, drop_last))


DROPPED = "drop_last=True of the DataLoader has no effect: the strategy has last='partial'; give it last='drop'"
SEED = "generator or seed has no effect on the order of the examples: use BatchSizeScheduler(seed=...)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"loader": loader(shuffle=True, drop_last=True)}, DROPPED),
        ({"loader": loader(drop_last=True)}, DROPPED),
        ({"loader": loader(shuffle=True, generator=torch.Generator().manual_seed(1))}, SEED),
        ({"loader": loader(sampler=DistributedSampler(Regression(), 1, 0, seed=3))}, SEED),
        ({"loader": loader(sampler=WeightedRandomSampler([1.0] * N, N, generator=torch.Generator()))}, SEED),
        ({"loader": in_batches(RandomSampler(range(N), generator=torch.Generator()), drop_last=False)}, SEED),
        ({"loader": in_batches(RandomSampler(range(N)), drop_last=True)}, DROPPED),
        ({"reload_dataloaders_every_n_epochs": 2}, "reload_dataloaders_every_n_epochs=2 has no effect: the plan was made for the data set"),
        ({"strategy": Dual(8)}, "Dual keeps B = 8 and the learning rate, because there is no schedule"),
        ({"strategy": Dual(8), "schedule": schedules.Constant()}, "Dual keeps B = 8 and the learning rate"),
        (
            {"strategy": Dual(8), "schedule": schedules.Warmup(1, 0.1).before(schedules.Constant(), 3)},
            "Dual keeps B = 8 and the learning rate",  # a warm-up stays in the learning rate
        ),
        ({"strategy": CyclicBatch(8, 1, base_factor=1.0)}, "CyclicBatch keeps B = 8 and the learning rate"),
        ({"strategy": batching.MultiStep(40, [1], 5)}, "from epoch 1 on B would be 200 and is clipped to N = 103"),
        ({"strategy": batching.MultiStep(10, [1, 2], 5)}, "from epoch 2 on B would be 250 and is clipped to N = 103"),
    ],
)
def test_what_has_no_effect_is_said_once(arguments: dict[str, Any], words: str) -> None:
    batches = BatchSizeScheduler(arguments.pop("strategy", batching.Fixed(20)), arguments.pop("schedule", None))
    (line,) = lines_of(lambda: fit(Plain(network()), batches, **arguments))
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        {"loader": loader(shuffle=True, drop_last=True), "strategy": batching.Fixed(20, last="drop")},
        {"loader": loader(sampler=DistributedSampler(Regression(), 1, 0))},
        {"strategy": Dual(8), "schedule": schedules.Cosine()},
        {"strategy": Dual(8), "schedule": schedules.MultiStep([2.9], 0.1)},
        {"strategy": Dual(8, growth=0.0), "schedule": schedules.Cosine()},
        {"strategy": CyclicBatch(8, 1)},
        {"strategy": batching.MultiStep(40, [1], 5, max_size=103)},  # asked for
        {"strategy": batching.MultiStep(40, [1], 2)},
        {"strategy": batching.MultiStep(40, [3], 5)},  # after the end
        {"strategy": batching.Full()},
    ],
)
def test_nothing_is_said_of_what_is_done(arguments: dict[str, Any]) -> None:
    batches = BatchSizeScheduler(arguments.pop("strategy", batching.Fixed(20)), arguments.pop("schedule", None))
    assert lines_of(lambda: fit(Plain(network()), batches, **arguments)) == []


# -- Lightning's warning about short epochs -------------------------------------------------------------------------------------

SHORT = "smaller than the logging interval"


class Asks(Plain):
    """It wants to know its number of updates, so that Lightning looks at the length of the epoch twice."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


@pytest.mark.parametrize("kind", [Plain, Asks])
@pytest.mark.parametrize("strategy", [batching.Fixed(20), batching.MultiStep(20, [1], 2)])
def test_lightnings_warning_about_short_epochs_comes_once_in_each_training(
    tmp_path: Path, strategy: batching.BatchStrategy, kind: type[Plain]
) -> None:
    module, data = kind(network()), loader(shuffle=True)
    trainer = quiet_trainer(BatchSizeScheduler(strategy), logger=CSVLogger(tmp_path))

    def train() -> None:
        trainer.fit(module, data)
        trainer.fit_loop.max_epochs = 6

    first = lines_of(train)
    assert [SHORT in line for line in first] == [True]
    second = lines_of(train)
    assert [SHORT in line for line in second if "checkpoint" not in line.lower()] == [True]


def test_the_users_own_filters_are_as_before(tmp_path: Path) -> None:
    def training(**options: Any) -> None:
        fit(Plain(network()), BatchSizeScheduler(batching.Fixed(20)), logger=CSVLogger(tmp_path), **options)

    with warnings.catch_warnings():
        before = list(warnings.filters)
        with pytest.warns(UserWarning, match=SHORT):
            training()
        assert list(warnings.filters) == before
        warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
        before = list(warnings.filters)
        training()
        assert list(warnings.filters) == before


def test_an_optimizer_whose_noise_the_batch_does_not_carry_is_named() -> None:
    module = Plain(network(), lambda parameters: torch.optim.Adagrad(parameters, lr=0.1))
    strategy = Dual(size=3, max_size=30, match="ratio", last="carry")
    lines = lines_of(lambda: fit(module, BatchSizeScheduler(strategy, schedules.Cosine())))
    assert [line for line in lines if "Adagrad divides by the root of the sum of all squared gradients" in line]
    rule = Dual(size=3, max_size=30, rule="sgd", last="carry")
    module = Plain(network(), lambda parameters: torch.optim.RMSprop(parameters, lr=0.01))
    lines = lines_of(lambda: fit(module, BatchSizeScheduler(rule, schedules.Cosine())))
    assert [line for line in lines if "which is not the noise of RMSprop, whose rule is adaptive" in line]


class MySGD(torch.optim.SGD):
    pass


class MyAdagrad(torch.optim.Adagrad):
    pass


class Signs(torch.optim.Optimizer):
    """Derived from none of torch's optimizers."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad.sign()
        return loss


@pytest.mark.parametrize(
    ("mine", "rule", "words"),
    [
        (MySGD, "sgd", ""),
        (MyAdagrad, "adaptive", "it has no dual by its batch"),
        (Signs, "adaptive", "batch.rule=adaptive is assumed for Signs, whose noise was not measured"),
    ],
)
def test_the_rule_of_an_optimizer_that_is_derived_from_one_of_torchs(mine: Any, rule: str, words: str) -> None:
    batches = BatchSizeScheduler(Dual(size=8), schedules.MultiStep([1, 2], 0.5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Plain(network(), lambda parameters: mine(parameters)), batches)
    strategy: Any = batches.plan.strategy
    assert strategy.rule == rule
    said = [str(each.message) for each in caught]
    assert any(words in line for line in said)
    assert bool(words) == any(mine.__name__.removeprefix("My") in line for line in said)

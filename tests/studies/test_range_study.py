"""The range test in a Trainer: at the effective batch, with the planned rates, and without a trace."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from noisescale.callbacks import BatchSizeScheduler, SafeCheckpointIO
from noisescale.errors import ConfigError
from noisescale.execution.save_points import SavePoints
from noisescale.measures.range_test import NOTHING, RangeOptions
from noisescale.plans import Dual, Fixed, MultiStep
from noisescale.studies import range_test
from noisescale.studies.range_figure import draw_range
from noisescale.studies.range_study import RangeFound
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

QUICK: dict[str, Any] = {"lowest": 1e-3, "highest": 10.0, "updates": 40, "trainer": {"accelerator": "cpu"}}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def loader() -> DataLoader[Any]:
    return DataLoader(Regression(), batch_size=7, shuffle=True)


def found(module: Plain, batch: Any = 16, **options: Any) -> RangeFound:
    return range_test(module, loader(), batch, **{**QUICK, **options})


def by_hand(batches: list[list[int]], rates: list[float]) -> list[float]:
    """The losses of plain updates of SGD with these examples and rates."""
    net, data, losses = network(), Regression(), []
    for indices, rate in zip(batches, rates, strict=True):
        net.zero_grad()
        loss = F.mse_loss(net(data.x[indices]), data.y[indices])
        loss.backward()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(parameter.grad, alpha=-rate)  # type: ignore[arg-type]
    return losses


@pytest.mark.parametrize("limit", [None, 6])
def test_every_update_has_the_effective_batch_and_its_rate(limit: int | None) -> None:
    module = Plain(network(), sgd)
    test = found(module, scheduler={"max_micro_batch_size": limit})
    pieces = 1 if limit is None else 3
    updates = [[index for part in module.seen[k : k + pieces] for index in part] for k in range(0, len(module.seen), pieces)]
    assert {len(update) for update in updates} == {16}
    options = RangeOptions(1e-3, 10.0, 40)
    rates = [options.rate(k) for k in range(len(updates))]
    assert test.rates == pytest.approx(rates[:-1])
    assert test.losses[:25] == pytest.approx(by_hand(updates, rates)[1:26], rel=1e-9)
    assert test.size == 16


def test_it_ends_at_divergence() -> None:
    test = found(Plain(network(), sgd), highest=1e4, updates=100)
    assert test.diverged
    assert len(test.losses) < 90
    assert not found(Plain(network(), sgd), highest=0.1).diverged


def test_module_and_random_numbers_are_left_as_they_were() -> None:
    module = Plain(network(dropout=0.5, norm=True), sgd)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    found(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in module.parameters())
    other = Plain(network(dropout=0.5, norm=True), sgd)
    for each in (module, other):
        fit(each, BatchSizeScheduler(Fixed(size=16), seed=1), max_epochs=1)
    assert torch.equal(weights(module), weights(other))


@pytest.mark.parametrize(("batch", "size"), [(Dual(size=8, rule="sgd"), 8), (MultiStep(size=4, milestones=[1], factor=4), 4)])
def test_a_strategy_counts_with_its_first_size(batch: Any, size: int) -> None:
    assert found(Plain(network(), sgd), batch, updates=20).size == size


def test_groups_keep_their_ratio() -> None:
    class TwoGroups(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            first, *others = self.net.parameters()
            self.made = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.01}])
            return self.made

    module = TwoGroups(network())
    test = found(module, updates=20, highest=0.01)
    rates = [group["lr"] for group in module.made.param_groups]
    assert rates == pytest.approx([0.01, 0.001])
    assert len(test.rates) == 19


def test_it_starts_from_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    fit(Plain(network(), sgd), BatchSizeScheduler(Fixed(size=8)), SavePoints({1.5: path}), plugins=[SafeCheckpointIO()])
    fresh, trained = found(Plain(network(), sgd)), found(Plain(network(), sgd), ckpt_path=path)
    assert trained.losses[0] < 0.8 * fresh.losses[0]


def groups_of(module: Plain) -> list[dict[str, Any]]:
    first, *others = module.net.parameters()
    return [{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.01}]


class Scheduled(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(groups_of(self))
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"}]


class WarmedUp(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(groups_of(self))
        factors: list[Any] = [lambda k: 0.1 + k, lambda k: 0.5]
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factors), "interval": "step"}]


class Plateau(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(groups_of(self))
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "monitor": "val/loss"}


@pytest.mark.parametrize("scheduled", [Scheduled, WarmedUp, Plateau])
def test_a_scheduler_of_the_module_is_left_out(scheduled: type[Plain]) -> None:
    """The test is that of the optimizer alone, whatever the scheduler does to the rates when it is made, or after an update."""

    class Alone(Plain):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(groups_of(self))

    alone, test = found(Alone(network()), updates=20), found(scheduled(network()), updates=20)
    assert test == alone
    assert list(test.ratios) == pytest.approx([1.0, 0.1])


def test_what_cannot_be_tested_is_refused() -> None:
    class Two(Plain):
        def configure_optimizers(self) -> Any:
            first, *others = self.net.parameters()
            return [torch.optim.SGD([first], lr=0.1), torch.optim.SGD(others, lr=0.1)]

    with pytest.raises(ConfigError, match="configure_optimizers=several optimizers: a study steps exactly one; return one"):
        found(Two(network()))
    with pytest.raises(ConfigError, match=r"lr=0\.0"):
        found(Plain(network(), lambda parameters: torch.optim.SGD(parameters, lr=0.0)))
    with pytest.raises(ConfigError, match=r"size=200: must be at most N = 103"):
        found(Plain(network()), 200)
    with pytest.raises(ConfigError, match=r"trainer\.devices=2: a study runs on one device"):
        found(Plain(network()), trainer={"devices": 2})


def test_the_figure(tmp_path: Path) -> None:
    test = found(Plain(network(), sgd))
    for ramp, shown in (("exponential", test), ("linear", replace(test, suggestions=NOTHING)), ("exponential", replace(test, losses=()))):
        draw_range(shown, "a title with $", tmp_path / "a.png", ramp)
        assert (tmp_path / "a.png").stat().st_size > 10_000

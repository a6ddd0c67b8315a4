"""Each parameter group has its own base, also one that is added while training; what other code sets is not overwritten in silence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn
from torch.optim import Optimizer

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.parameter_groups import GroupRates
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import Rates, SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def planned() -> BatchSizeScheduler:
    """Three updates in each of three epochs, of two or three micro-batches each."""
    return BatchSizeScheduler(batching.Fixed(40), schedules.Cosine(), max_micro_batch_size=16)


class Thawed(Plain):
    """Trains its first layer, and its last one from epoch `at` on, with `group` as its parameter group."""

    def __init__(self, at: int = 1, hook: str = "on_train_epoch_start", **group: Any) -> None:
        super().__init__(network())
        self.at, self.hook, self.group = at, hook, group

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.net.get_submodule("0").parameters(), lr=0.1, momentum=0.9)

    def on_train_epoch_start(self) -> None:
        self._thaw("on_train_epoch_start")

    def on_train_epoch_end(self) -> None:
        self._thaw("on_train_epoch_end")

    def on_train_batch_end(self, *_: Any) -> None:
        self._thaw("on_train_batch_end")

    def _thaw(self, hook: str) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, Optimizer)
        if (hook, self.current_epoch) == (self.hook, self.at) and len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": list(self.net.get_submodule("3").parameters()), **self.group})


@pytest.mark.parametrize(
    ("module", "base", "first"),
    [
        (Thawed(lr=0.05), 0.05, 3),
        (Thawed(at=2, lr=0.05), 0.05, 6),  # the factor has long been below 1
        (Thawed(), 0.1, 3),  # the optimizer's default
        (Thawed(lr=0.05, initial_lr=0.2), 0.2, 3),
        (Thawed(at=0, hook="on_train_epoch_end", lr=0.05), 0.05, 3),
        (Thawed(at=0, hook="on_train_batch_end", lr=0.05), 0.05, 1),  # inside the first update
        (Thawed(lr=torch.tensor(0.05, dtype=torch.float64)), 0.05, 3),
    ],
)
def test_a_late_group_follows_the_schedule_from_the_rate_that_it_comes_with(module: Thawed, base: float, first: int) -> None:
    rates, batches = Rates(), planned()
    fit(module, batches, rates)
    factors = [update.lr_factor for update in batches.plan]
    assert len(factors) == 9
    assert [rate[0] for rate in rates.rates] == [0.1 * factor for factor in factors]
    assert [rate[1] for rate in rates.rates[first:]] == [base * factor for factor in factors[first:]]
    assert all(len(rate) == 1 for rate in rates.rates[: max(first, 1) - 1])


class Frozen(Plain):
    """Its first layer is a backbone, which a callback of Lightning's thaws."""

    def __init__(self) -> None:
        super().__init__(network(dropout=0.3))
        self.backbone = self.net.get_submodule("0")

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.net.get_submodule("3").parameters(), lr=0.1, momentum=0.9)


class ByHand(BaseFinetuning):
    """Thaws the backbone in epoch 1, at the rate `lr`; None: a tenth of the current rate of the first group."""

    def __init__(self, lr: float | None) -> None:
        super().__init__()
        self.lr = lr

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module.backbone, nn.Module)
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: pl.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        assert isinstance(pl_module.backbone, nn.Module)
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, self.lr)


def constant(_: int) -> float:
    return 1.0


def doubled(_: int) -> float:
    return 2.0


def rates_of(*callbacks: pl.Callback) -> list[list[float]]:
    rates = Rates()
    fit(Frozen(), planned(), rates, *callbacks)
    assert [len(rate) for rate in rates.rates] == [1] * 3 + [2] * 6
    return rates.rates


@pytest.mark.parametrize("callback", [lambda: ByHand(None), lambda: BackboneFinetuning(1, constant, should_align=False)])
def test_a_ratio_to_the_current_rate_is_kept_by_the_schedule(callback: Callable[[], BaseFinetuning]) -> None:
    """Both thaw at a tenth of the current rate of the head, which the factor has changed."""
    rates = rates_of(callback())
    kept = 3 if isinstance(callback(), BackboneFinetuning) else 6  # in epoch 2 BackboneFinetuning sets the rate itself again
    for head, backbone in rates[3 : 3 + kept]:
        assert backbone == pytest.approx(0.1 * head, rel=1e-12)


def test_a_fixed_rate_is_that_of_the_moment() -> None:
    rates = rates_of(ByHand(0.02))
    before = rates[2][0] / 0.1  # the factor of the update before
    for head, backbone in rates[3:]:
        assert backbone == pytest.approx(0.02 / before * head / 0.1, rel=1e-12)


def test_the_rates_that_backbone_finetuning_sets_in_later_epochs_are_those_of_the_moment_too() -> None:
    callback = BackboneFinetuning(1, doubled, should_align=False)
    rates = rates_of(callback)
    set_by_it = 0.1 * rates[2][0], 2 * 0.1 * rates[2][0]
    assert callback.previous_backbone_lr == pytest.approx(set_by_it[1], rel=1e-12)
    for start, rate in ((3, set_by_it[0]), (6, set_by_it[1])):
        for head, backbone in rates[start : start + 3]:
            assert backbone == pytest.approx(rate * head / rates[start - 1][0], rel=1e-12)


def test_an_aligned_backbone_has_the_rate_of_the_head() -> None:
    rates = rates_of(BackboneFinetuning(1, lambda _: 100.0))
    for head, backbone in rates[6:]:
        assert backbone == pytest.approx(head, rel=1e-12)


class Rethawed(BackboneFinetuning):
    """Lightning's own leaves the backbone frozen in a run that is resumed after it was thawed."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        for group in trainer.optimizers[0].param_groups:
            for parameter in group["params"]:
                parameter.requires_grad = True


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
@pytest.mark.parametrize("at", [2, 9, 11, 15, 17, 20])
def test_a_resumed_run_with_a_late_group_is_the_uninterrupted_one(tmp_path: Path, at: int) -> None:
    """The group is there from micro-batch 9 on, and its rate is set again before micro-batch 17."""
    whole, rates = Frozen(), Rates()
    fit(whole, planned(), Rethawed(1, doubled), rates)
    with pytest.raises(Stop):
        fit(Frozen(), planned(), Rethawed(1, doubled), SaveAndDie(at, tmp_path / "in.ckpt"))
    resumed, rest = Frozen(), Rates()
    fit(resumed, planned(), Rethawed(1, doubled), rest, ckpt_path=tmp_path / "in.ckpt")
    assert rest.rates == rates.rates[-len(rest.rates) :]
    assert torch.equal(weights(resumed), weights(whole))


def test_a_group_of_an_optimizer_that_is_restored_keeps_its_base() -> None:
    """The module adds its group in epoch 1; the run is resumed in epoch 2, with an optimizer that has the group from the start."""

    def optimizer(both: bool) -> Optimizer:
        net = network()
        made = torch.optim.SGD(net[0].parameters(), lr=0.1)
        if both:
            made.add_param_group({"params": list(net[3].parameters())})
        return made

    first, rates = optimizer(False), GroupRates()
    rates.start(first)
    rates.write(first, 0.5)
    first.add_param_group({"params": list(network()[3].parameters()), "lr": 0.04})
    saved_at_once = first.state_dict()
    rates.write(first, 0.25)
    for state in (saved_at_once, first.state_dict()):
        resumed, again = optimizer(True), GroupRates()
        resumed.load_state_dict(state)
        again.start(resumed)
        again.write(resumed, 0.125)
        assert [group["lr"] for group in resumed.param_groups] == [0.1 * 0.125, 0.04 * 0.125]


def test_a_rate_that_is_a_tensor_is_written_in_place_and_does_not_change_its_base() -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    rates = GroupRates()
    rates.start(optimizer)
    for factor in (0.5, 0.25, 1.0):
        rates.write(optimizer, factor)
        assert float(rate) == 0.1 * factor
        assert optimizer.param_groups[0]["lr"] is rate


# -- what other code sets ------------------------------------------------------------------------------------------------------


class Halves(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch > 0:
            trainer.optimizers[0].param_groups[0]["lr"] *= 0.5


class AtTheStart(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] = 0.7


class InTheStep(Plain):
    """A warm-up as Lightning's documentation shows it."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, (self.trainer.global_step + 1) / 500)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


@pytest.mark.parametrize(
    ("module", "callbacks", "rate"),
    [(Plain(network()), [Halves()], "0.04218"), (Plain(network()), [AtTheStart()], "0.7"), (InTheStep(network()), [], "0.0002")],
)
def test_a_rate_that_other_code_sets_beside_the_plan_is_said_once(module: Plain, callbacks: list[pl.Callback], rate: str) -> None:
    with pytest.warns(UserWarning, match="other code set the learning rate") as caught:
        fit(module, planned(), *callbacks)
    (line,) = (str(warning.message) for warning in caught if "other code" in str(warning.message))
    assert f"set the learning rate of parameter group 0 to {rate}" in line
    assert "the plan sets it" in line


def test_without_a_schedule_other_code_may_set_it_and_nothing_is_said() -> None:
    rates = Rates()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        fit(Plain(network()), BatchSizeScheduler(batching.Fixed(40)), rates, Halves())
    assert [rate for (rate,) in rates.rates] == [0.1] * 3 + [0.05] * 3 + [0.025] * 3

"""The trial before training leaves no trace in it, and what cannot be tried is said to be unchecked."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from tests.helpers.cut_checks import DrawsItself, cutting
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored[:5]]


class NeedsItsLogger(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.logger.experiment.add_text("x", "y")  # type: ignore[union-attr]
        return super().training_step(batch, batch_idx)


class CannotBeCopied(Plain):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("cannot be copied")


class DrawsInItsHook(Plain):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] + torch.randn_like(batch[0]), *batch[1:]


UNCHECKED = {
    NeedsItsLogger: "'NoneType' object has no attribute 'experiment'",
    CannotBeCopied: "cannot be copied",
    DrawsItself: "draws random numbers",
    DrawsInItsHook: "draws random numbers",
}


@pytest.mark.parametrize("module", UNCHECKED)
def test_a_module_that_cannot_be_run_this_way_is_said_to_be_unchecked(
    module: Callable[[nn.Module], Plain], monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    logger = SimpleNamespace(experiment=SimpleNamespace(add_text=lambda *_: None))
    monkeypatch.setattr(NeedsItsLogger, "logger", property(lambda self: getattr(self.trainer, "logger", None) and logger))
    monkeypatch.setattr(pl.Trainer, "logger", "a logger")
    fit(module(network()), cutting(), max_epochs=1)
    assert len(said) == 1
    assert said[0].startswith("BatchSizeScheduler could not check whether the gradient depends on how a batch is cut (")
    assert UNCHECKED[module] in said[0]  # type: ignore[index]


def masks_at_random(examples: list[Any]) -> Any:
    x, y, index = default_collate(examples)
    return x * (torch.rand_like(x) < 0.8), y, index


def test_a_collate_function_that_draws_random_numbers_is_said_to_be_unchecked(said: list[str]) -> None:
    fit(Plain(network()), cutting(), loader=DataLoader(Regression(), collate_fn=masks_at_random), max_epochs=1)
    assert len(said) == 1
    assert "draws random numbers" in said[0]


class OpenedAtFirstUse(Regression):
    """Notes in which process it was first used, as a file that is opened then would belong to that process."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: int | None = None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        self.opened = self.opened or os.getpid()
        assert self.opened == os.getpid()
        return super().__getitem__(index)


def test_with_workers_this_process_does_not_touch_the_data_set() -> None:
    data = OpenedAtFirstUse()
    fit(Plain(network()), cutting(), data=data, workers=1, max_epochs=1)
    assert data.opened is None


@pytest.mark.filterwarnings("ignore:.*before `optimizer.step.*")
def test_the_rates_of_a_scheduler_of_the_module_do_not_move() -> None:
    class Steps(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if (found := self.lr_schedulers()) is not None:
                found.step()  # type: ignore[union-attr]
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            optimizer = self.make_optimizer(self.net.parameters())
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99), "interval": "epoch"}]

    modules = [Steps(network()), Steps(network())]
    for module, check in zip(modules, (True, False), strict=True):
        fit(module, cutting(check_cuts=check), max_epochs=1)
    assert torch.equal(weights(modules[0]), weights(modules[1]))


class Logs(Plain):
    """Logs, keeps its losses, draws random numbers in its data, and has a layer whose copies would change the original."""

    def __init__(self) -> None:
        super().__init__(network(dropout=0.2, norm=True))
        norm: Any = self.net.get_submodule("1")
        forward = norm.forward
        norm.forward = lambda x: forward(x)  # a function is not copied, so that a copy runs this very layer
        self.kept: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        self.kept.append(loss.detach().clone())
        return loss


@pytest.mark.filterwarnings("ignore:.*will not equal those of one big batch.*")
def test_training_is_bitwise_the_same_with_the_check_and_without_it() -> None:
    modules, drawn, metrics = [], [], []

    class Draws(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002

    for check in (True, False):
        pl.seed_everything(5, verbose=False)
        module = Logs()
        trainer = fit(module, cutting(check_cuts=check), Draws())
        modules.append(module)
        metrics.append(dict(trainer.callback_metrics))
    assert torch.equal(weights(modules[0]), weights(modules[1]))
    for one, other in zip(modules[0].buffers(), modules[1].buffers(), strict=True):
        assert torch.equal(one, other)
    assert drawn[0] == drawn[1]
    assert metrics[0] == metrics[1]
    assert modules[0].seen == modules[1].seen
    assert len(modules[0].kept) == len(modules[1].kept)


class Touches(Plain):
    """Its rate of learning and its loss depend on something of the trainer that every step changes."""

    def __init__(self, touch: Callable[[Any], float]) -> None:
        super().__init__(network())
        self.touch = touch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (1.0 + 0.1 * self.touch(self))


def of_its_optimizer(module: Any) -> float:
    for group in module.optimizers().param_groups:
        group["lr"] *= 0.99
    return 0.0


def of_the_strategy(module: Any) -> float:
    module.trainer.strategy.optimizers[0].param_groups[0]["momentum"] *= 0.99
    return 0.0


def of_the_trainer(module: Any) -> float:
    module.trainer.steps = getattr(module.trainer, "steps", 0) + 1
    return float(module.trainer.steps)


def of_a_stop(module: Any) -> float:
    module.trainer.should_stop = True
    return 0.0


def of_the_metrics(module: Any) -> float:
    metrics = module.trainer.callback_metrics
    metrics["steps"] = metrics.get("steps", torch.zeros(())) + 1
    return float(metrics["steps"])


def of_its_callbacks(module: Any) -> float:
    callback = module.trainer.callbacks[0]
    callback.steps = getattr(callback, "steps", 0) + 1
    return float(callback.steps)


TOUCHED: dict[str, tuple[Callable[[], Callable[[Any], float]], str | None]] = {
    "its optimizer": (lambda: of_its_optimizer, "trainer.strategy._lightning_optimizers"),
    "the strategy": (lambda: of_the_strategy, "trainer.strategy.optimizers"),
    "the trainer": (lambda: of_the_trainer, None),
    "a stop": (lambda: of_a_stop, None),
    "the metrics": (lambda: of_the_metrics, None),
    "its callbacks": (lambda: of_its_callbacks, "trainer.callbacks"),
}


@pytest.mark.filterwarnings("ignore:.*will not equal those of one big batch.*")
@pytest.mark.parametrize("name", TOUCHED)
def test_training_is_bitwise_the_same_whatever_a_step_touches_of_the_trainer(name: str, said: list[str]) -> None:
    make, unchecked = TOUCHED[name]
    modules = []
    for check in (True, False):
        module = Touches(make())
        trainer = fit(module, cutting(check_cuts=check), max_steps=2)
        modules.append((module, trainer))
    (checked, first), (plain, second) = modules
    assert torch.equal(weights(checked), weights(plain))
    assert first.global_step == second.global_step
    assert first.optimizers[0].param_groups[0]["lr"] == second.optimizers[0].param_groups[0]["lr"]
    if unchecked is not None:
        assert len(said) == 1
        assert unchecked in said[0]

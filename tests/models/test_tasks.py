"""Regression, and losses of one's own: each number against its formula, and what does not fit in one line."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from noisescale.errors import ConfigError
from noisescale.models import Classifier, Regressor, Task
from tests.helpers.refusals import refusal_of


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def batches(sizes: list[int], outputs: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 4, generator=generator), torch.randn(n, outputs, generator=generator)) for n in sizes]


def evaluated(module: Task, parts: list[Any]) -> tuple[float, float]:
    """(loss, metric) of a validation."""
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    for part in parts:
        module.validation_step(part, 0)
    loss, metric = module.mean_loss["val"], module.metric["val"]
    assert isinstance(loss, Metric)
    assert isinstance(metric, Metric)
    return float(loss.compute()), float(metric.compute())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("mse", lambda d: d**2),
        ("l1", lambda d: d.abs()),
        ("huber", lambda d: torch.where(d.abs() <= 1, d**2 / 2, d.abs() - 0.5)),
    ],
)
def test_losses_and_rmse_are_means_over_all_numbers_whatever_the_batches(loss: str, formula: Any, outputs: int) -> None:
    torch.manual_seed(0)
    module = Regressor(nn.Linear(4, outputs), sgd, loss=loss)
    parts = batches([5, 1, 7], outputs)
    differences = torch.cat([module.net(x) - y for x, y in parts]).detach()
    right = pytest.approx((float(formula(differences).mean()), float(differences.square().mean().sqrt())), rel=1e-5)
    assert evaluated(module, parts) == right
    for step, part in enumerate(parts):
        module.training_step(part, step)
    module._sum_up()
    assert module._sums is not None
    total, scores = module._sums.tolist()
    assert (total / 13, module.final(scores / 13)) == right


def test_targets_without_a_second_dimension_do_not_become_a_square() -> None:
    torch.manual_seed(0)
    module = Regressor(nn.Linear(4, 1), sgd)
    ((x, y),) = batches([6])
    torch.testing.assert_close(module.training_step((x, y[:, 0].double()), 0), F.mse_loss(module.net(x), y))


def test_the_mean_of_a_loss_of_ones_own_is_over_examples_whatever_the_batches() -> None:
    """The last batch has one example of thirteen, and so the weight 1/13."""
    torch.manual_seed(0)
    module = Classifier(nn.Linear(4, 3), sgd, loss=lambda outputs, targets: F.multi_margin_loss(outputs, targets))
    parts = [(x, torch.arange(len(x)) % 3) for x, _ in batches([5, 7, 1])]
    x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    logits = module.net(x).detach()
    right = float((logits.argmax(1) == y).float().mean())
    assert evaluated(module, parts) == pytest.approx((float(F.multi_margin_loss(logits, y)), right), rel=1e-5)


def test_the_parameters_of_a_loss_are_trained() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_variance = nn.Parameter(torch.zeros(()))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return ((outputs - targets).square() * (-self.log_variance).exp() + self.log_variance).mean()

    loss = Scaled()
    module = Regressor(nn.Linear(4, 1), sgd, loss=loss)
    optimizer = module.configure_optimizers()
    ((x, y),) = batches([8])
    module.training_step((x, y), 0).backward()
    optimizer.step()
    assert loss.log_variance != 0


def test_nan_is_not_hidden() -> None:
    module = Regressor(nn.Linear(4, 1), sgd)
    ((x, y),) = batches([8])
    y[3] = math.nan
    assert all(map(math.isnan, evaluated(module, [(x, y)])))


ONE = "must give one number, the mean over the examples of the batch, not"
CHOICES = "must be one of mse, l1, huber, or the dotted name of a function (outputs, targets) -> mean; my_module.my_loss"
BATCHES = "a task needs batches of two tensors, (inputs, targets); for other batches set module._target_ to a LightningModule of your own"
SEEN = "task=classification: the network has 3 outputs, for the classes 0 to 2; the targets are"
X, Y, CLASSES = torch.zeros(5, 4), torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("make", "outputs", "batch", "line"),
    [
        (Classifier, 3, (X, Y[:, 0]), "task=classification: needs whole numbers as targets, not torch.float32; use task=regression"),
        (Classifier, 3, (X, CLASSES + 3), f"{SEEN} 3 to 3"),
        (Classifier, 3, (X, CLASSES - 1), f"{SEEN} -1 to -1"),
        (
            Classifier,
            1,
            (X, CLASSES),
            "task=classification: needs outputs (n, classes), with two classes or more, and targets (n,); the network gives outputs of "
            "shape (5, 1) for targets of shape (5,)",
        ),
        (
            Regressor,
            3,
            (X, Y),
            "task=regression: needs one output for each number of the targets; the network gives outputs of shape (5, 3) for targets of "
            "shape (5, 1)",
        ),
        (Regressor, 1, {"x": X, "y": Y}, f"data=dict: {BATCHES}"),
        (Regressor, 1, (X, [Y]), f"data=tuple of Tensor, list: {BATCHES}"),
        (Regressor, 1, [X, Y, Y], f"data=list of Tensor, Tensor, Tensor: {BATCHES}"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_line(make: type[Any], outputs: int, batch: Any, line: str) -> None:
    for step in ("training_step", "validation_step"):
        module = make(nn.Linear(4, outputs), sgd)
        assert refusal_of(partial(getattr(module, step), batch, 0)) == line


@pytest.mark.parametrize("net", [nn.LSTM(4, 1), nn.Identity()])
def test_a_network_that_does_not_fit_is_one_line(net: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"^(model=tuple: a task needs a network whose output is one tensor|task=regression: needs one)"):
        Regressor(net, sgd).training_step((X, Y), 0)


@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (lambda o, t: (o - t).flatten(), f"task.loss=<lambda>: {ONE} a tensor of shape (5,)"),
        (lambda o, t: 3.0, f"task.loss=<lambda>: {ONE} a float"),
        ("l3", f"loss=l3: {CHOICES}"),
        (3, f"loss=3: {CHOICES}"),
    ],
)
def test_a_loss_that_is_none_is_one_line(loss: Any, line: str) -> None:
    assert refusal_of(lambda: Regressor(nn.Linear(4, 1), sgd, loss=loss).training_step((X, Y), 0)) == line

"""Before training, a batch is run whole and in two cuts: what depends on the cut is said, with its cause and its size."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.cut_layers import see_whole_updates
from noisescale.models import GhostBatchNorm2d
from noisescale.plans import Plan
from noisescale.plans import strategies as batching
from noisescale.plans.trainer_limits import stretches_of_every_size
from tests.helpers.cut_checks import (
    AlwaysOfTheBatch,
    DrawsItself,
    FewTargets,
    Loss,
    contrastive,
    cutting,
    summed,
    under_autocast,
    untracked,
    weighted,
    weighted_with,
    with_norm,
)
from tests.helpers.denominators import PROBLEMS, NextToken
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored[:5]]


ONLY_NORM = r"batch norm sees each micro-batch alone \(gradient [\d.]+ %, loss [\d.]+ %\): use ghost batch norm, or [^;:]* \(measured"
SAID = {
    "token mean": (
        lambda: NextToken("token mean", torch.float64),
        r"mean over something other than examples .*count [\d.]+ of it, not 0\.3\. ",
    ),
    "class weights": (lambda: NextToken("class weights", torch.float32), r"mean over something other than examples .*Give weight="),
    "a weighted mean": (lambda: Loss(weighted), r"mean over something other than examples"),
    "a sum": (lambda: Loss(summed), r"the loss is a sum over examples .*return their mean"),
    "in-batch negatives": (lambda: Loss(contrastive), r"depends on the other examples of its batch .*in-batch negatives"),
    "batch norm": (lambda: Plain(network(norm=True)), r"batch norm sees each micro-batch alone \(gradient [\d.]+ %"),
    "dropout": (lambda: Plain(network(dropout=0.5)), r"dropout draws other masks for other cuts.*in this draw"),
    "dropout and a sum": (lambda: Loss(summed, dropout=0.5), r"dropout draws other masks.*; the loss is a sum"),
    "synchronised batch norm on one device": (
        lambda: Plain(with_norm(nn.SyncBatchNorm(16))),
        ONLY_NORM,
    ),
    "batch norm without running statistics": (lambda: Plain(with_norm(untracked())), ONLY_NORM),
    "and in evaluation, where it still uses the batch": (lambda: Plain(with_norm(untracked().eval())), ONLY_NORM),
    "and without parameters": (lambda: Plain(with_norm(untracked(affine=False))), ONLY_NORM),
    "batch norm that cannot be turned off": (lambda: Plain(with_norm(AlwaysOfTheBatch(16))), ONLY_NORM),
    "batch norm without running statistics and weights": (
        lambda: weighted_with(untracked()),
        r"batch norm sees each micro-batch alone .*; the loss is a mean over something other",
    ),
    "no target in a cut": (lambda: FewTargets(100), r"loss of a whole batch is finite, but that of the .* is not, .*give weight="),
    "in-batch negatives under autocast": (lambda: Loss(under_autocast(contrastive), dtype=torch.float32), r"in-batch negatives"),
    "weights under autocast": (lambda: Loss(under_autocast(weighted), dtype=torch.float32), r"mean over something other than examples"),
    "batch norm and weights": (
        lambda: Loss(weighted, norm=True),
        r"batch norm sees each micro-batch alone .*; the loss is a mean over something other",
    ),
}


@pytest.mark.filterwarnings("ignore:.*in eval mode")
@pytest.mark.parametrize("name", SAID)
def test_what_depends_on_the_cut_is_said_with_its_cause(name: str) -> None:
    make, words = SAID[name]
    with pytest.warns(UserWarning, match=f"^accumulated gradients will not equal those of one big batch: .*{words}"):
        fit(make(), cutting(), max_epochs=1)


def test_a_mean_over_examples_is_not_warned_about() -> None:
    for dtype in (torch.float32, torch.float64):
        fit(Plain(network(dtype)), cutting(), max_epochs=1)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_weight_that_is_the_denominator_is_not_warned_about(problem: str) -> None:
    fit(NextToken(problem, torch.float64), cutting(weight=PROBLEMS[problem][1]), max_epochs=1)


def test_a_weight_that_is_not_the_denominator_is_said() -> None:
    """It counts the padding too."""
    with pytest.warns(UserWarning, match=r"weight is not the denominator .*gives the first 3 of 10 .* but they count 0\.167"):
        fit(NextToken("token mean", torch.float64), cutting(weight=lambda batch: batch[1].numel()), max_epochs=1)


NO_WEIGHT = "ignore:update .*the weights of all its micro-batches are 0"


@pytest.mark.filterwarnings(NO_WEIGHT)
def test_a_cut_without_weight_counts_as_nothing() -> None:
    """Its loss is nan, and so are those of many whole batches; the others are compared, with batch norm and without it."""
    for every in (11, 50):
        module = FewTargets(every)
        fit(module, cutting(weight=lambda batch, module=module: module.weigh(batch).sum()), max_epochs=1)
        normed = FewTargets(every, norm=True)
        with pytest.warns(UserWarning, match=ONLY_NORM):
            fit(normed, cutting(weight=lambda batch, module=normed: module.weigh(batch).sum()), max_epochs=1)


def test_a_weight_of_a_cut_that_has_no_loss_is_said() -> None:
    """It counts all examples, so that the empty cut has a weight."""
    with pytest.warns(UserWarning, match=r"weight is not the denominator .* is not, though weight gives them 0\.[37] of the whole, not 0"):
        fit(FewTargets(100), cutting(weight=lambda batch: len(batch[0])), max_epochs=1)


def test_what_was_found_is_said_though_the_rest_cannot_be_checked(said: list[str]) -> None:
    net = with_norm(nn.BatchNorm1d(16))
    with pytest.warns(UserWarning, match=ONLY_NORM):
        fit(DrawsItself(net), cutting(), max_epochs=1)
    assert len(said) == 1
    assert said[0].startswith("BatchSizeScheduler could not check whether the gradient also depends on how a batch is cut (")


@pytest.mark.filterwarnings(NO_WEIGHT)
def test_no_advice_on_weight_is_given_to_those_who_gave_it(said: list[str]) -> None:
    fit(DrawsItself(network()), cutting(weight=lambda batch: len(batch[0])), max_epochs=1)
    fit(FewTargets(1000), cutting(weight=lambda batch: 0.0), max_epochs=1)
    assert ["see weight=" in line for line in said] == [False, False]
    assert "the examples that were tried have no weight" in said[1]


ROUNDED = {
    "tf32 or bf16 in matrix products": (lambda: Wide(), "medium"),
    "autocast": (lambda: Loss(under_autocast(squared), dtype=torch.float32), "highest"),
    "a counter": (lambda: Counts(network()), "highest"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_and_states_are_not_taken_for_a_dependence(name: str, said: list[str]) -> None:
    make, precision = ROUNDED[name]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        fit(make(), cutting(), max_epochs=1)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert not said


class Wide(Plain):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(5, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)))


def squared(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(module.net(x).to(y.dtype), y)


class Counts(Plain):
    """A loss that grows from step to step, as with a coefficient that is annealed."""

    steps = 0

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        self.steps += 1
        return super().training_step(batch, batch_idx) * (1 + 0.1 * self.steps)


def test_synchronised_batch_norm_sees_whole_updates_only_without_accumulation() -> None:
    norms = [nn.SyncBatchNorm(4)]

    def sees(strategy: Any, devices: int, limit: int | None) -> bool:
        plan = Plan(schedules.Constant(), strategy, 103, epochs=3, world_size=devices, max_micro_batch_size=limit)
        return see_whole_updates(norms, plan, (plan.update_at(each.cursor()) for each in stretches_of_every_size(plan)))

    growing = batching.MultiStep(size=10, milestones=[1], factor=4)
    assert sees(batching.Fixed(size=10), 1, None)
    assert not sees(batching.Fixed(size=10), 1, 4)
    assert sees(growing, 1, 40)
    assert not sees(growing, 1, 20)
    assert not sees(batching.Fixed(size=10), 2, None)  # they are synchronised in this process only
    assert not see_whole_updates([nn.BatchNorm1d(4)], Plan(schedules.Constant(), growing, 103, epochs=1), [])


def test_nothing_is_checked_if_nothing_is_cut_or_if_it_is_turned_off() -> None:
    steps: list[int] = []

    class Counts(NextToken):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            steps.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    for options in (
        {"max_micro_batch_size": None},
        {"max_micro_batch_size": 30},
        {"check_cuts": False},
    ):
        steps.clear()
        fit(Counts("token mean", torch.float64), cutting(**options), max_epochs=1)
        assert sum(steps) == 103


def test_a_batch_that_grows_beyond_the_limit_late_is_checked_before_training() -> None:
    growing = batching.MultiStep(size=5, milestones=[2], factor=8)
    with pytest.warns(UserWarning, match="mean over something other"):
        fit(NextToken("token mean", torch.float64), BatchSizeScheduler(growing, max_micro_batch_size=20), max_epochs=3)


RARE = torch.tensor([1.0, 9.0])


class RareClass(Plain):
    """Class weights, where one of two classes is rare: most micro-batches have none of it, and then a plain mean is right."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1], weight=RARE)


@pytest.mark.cases(1)
@pytest.mark.parametrize("limit", [4, 8, 16, 32])
def test_several_batches_are_tried_so_that_a_rare_class_is_found(limit: int) -> None:
    """One example in fifty: 256 examples without any are found with a probability of 0.6 %; for these seeds there are none."""
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(1000, 5, generator=generator), (torch.rand(1000, generator=generator) < 0.02).long()
    for seed in range(10):
        batches = BatchSizeScheduler(batching.Fixed(size=64), max_micro_batch_size=limit, seed=seed)
        loader = DataLoader(TensorDataset(x, y), shuffle=True)
        with pytest.warns(UserWarning, match="the loss is a mean over something other than examples"):
            fit(RareClass(network(torch.float32)), batches, loader=loader, max_steps=1)


def test_data_that_are_sorted_are_compared_all_over() -> None:
    """The first examples all have the same weight; a micro-batch from the start of the data would show nothing."""
    data = Regression()
    data.x, data.y = data.x[(order := data.x[:, 0].argsort())], data.y[order]
    with pytest.warns(UserWarning, match="mean over something other"):
        fit(Loss(weighted), cutting(), data=data, shuffle=False, max_epochs=1)


class Images(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), GhostBatchNorm2d(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(40, 1, 4, 4, generator=generator), torch.randn(40, 2, generator=generator)
        return DataLoader(TensorDataset(x, y))


def test_ghost_batch_norm_does_not_depend_on_the_cut() -> None:
    """Cuts are made between ghost batches, whose size is that of the layers; for another multiple it does."""
    fit(Images(), BatchSizeScheduler(batching.Fixed(size=16), max_micro_batch_size=8), max_epochs=1)
    with pytest.warns(UserWarning, match="batch norm sees each micro-batch alone"):
        fit(Images(), BatchSizeScheduler(batching.Fixed(size=16), max_micro_batch_size=8, micro_batch_multiple=1), max_epochs=1)

"""Batch norm in anybody's module: no single example, and running statistics that a repeated update and a placeholder leave right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.errors import ConfigError
from noisescale.execution.batch_norm import RunningStatistics, min_micro_batch_size
from noisescale.execution.micro_batch import MicroBatch
from noisescale.models import GhostBatchNorm2d
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Plan
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

WITH_ONE_LEFT = 6
"""103 = 17 x 6 + 1."""


class Never(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        pytest.fail("training started")


class BuiltLate(Never):
    """Builds its layers in a hook of Lightning's, as large models do."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1).double())

    def configure_model(self) -> None:
        self.net = network(norm=True)


@pytest.mark.parametrize("module", [Never(network(norm=True)), BuiltLate()], ids=["", "built late"])
@pytest.mark.parametrize(
    ("strategy", "limit", "line"),
    [
        (
            batching.Fixed(WITH_ONE_LEFT),
            None,
            "last=partial: update 17 has 1 example, and batch norm needs at least 2; use carry, drop or spread",
        ),
        (batching.Fixed(32), 1, "max_micro_batch_size=1: batch norm needs at least 2 examples in a micro-batch; use 3 or more"),
        (batching.Fixed(8), 2, "max_micro_batch_size=2: update 12 has 7 examples, which cannot be cut"),
        (batching.Linear(9, 1, 2), None, "has 1 example, and batch norm needs at least 2"),
    ],
)
def test_a_single_example_is_refused_before_training(module: Plain, strategy: batching.BatchStrategy, limit: int | None, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(module, BatchSizeScheduler(strategy, max_micro_batch_size=limit))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("last", ["carry", "drop", "spread"])
def test_the_remedies_train(last: str) -> None:
    module = Plain(network(norm=True))
    fit(module, BatchSizeScheduler(batching.Fixed(WITH_ONE_LEFT, last=last), max_micro_batch_size=3), max_epochs=1)
    assert min(map(len, module.seen)) > 1


def test_without_batch_norm_a_single_example_is_as_good_as_any() -> None:
    module = Plain(network())
    fit(module, BatchSizeScheduler(batching.Fixed(WITH_ONE_LEFT), max_micro_batch_size=1), max_epochs=1)
    assert set(map(len, module.seen)) == {1}


def test_whoever_knows_better_may_say_so() -> None:
    """A batch norm over large maps, or one that is frozen later, can do with a single example."""

    class Frozen(Plain):
        def on_train_epoch_start(self) -> None:
            self.net.get_submodule("1").eval()

    module = Frozen(network(norm=True))
    fit(module, BatchSizeScheduler(batching.Fixed(WITH_ONE_LEFT), min_micro_batch_size=1), max_epochs=1)
    assert len(module.seen[-1]) == 1


def frozen(layer: nn.Module) -> nn.Module:
    return layer.eval()


@pytest.mark.parametrize(
    ("layer", "world", "least"),
    [
        (nn.BatchNorm1d(3), 1, 2),
        (nn.BatchNorm2d(3), 2, 2),
        (nn.BatchNorm3d(3), 1, 2),
        (nn.LazyBatchNorm1d(), 1, 2),
        (GhostBatchNorm2d(3, 8), 1, 2),
        (nn.SyncBatchNorm(3), 1, 2),
        (nn.SyncBatchNorm(3), 2, 1),  # normalises over the devices
        (frozen(nn.BatchNorm1d(3)), 1, 1),
        (frozen(nn.BatchNorm1d(3, track_running_stats=False)), 1, 2),  # always uses the statistics of its batch
        (nn.InstanceNorm1d(3), 1, 1),
        (nn.GroupNorm(1, 3), 1, 1),
        (nn.LayerNorm(3), 1, 1),
        (nn.Linear(3, 3), 1, 1),
    ],
)
def test_which_layers_need_two_examples(layer: nn.Module, world: int, least: int) -> None:
    assert min_micro_batch_size(nn.Sequential(nn.Linear(3, 3), nn.Sequential(layer)), world) == least


@pytest.mark.parametrize(
    ("layer", "input"),
    [
        (nn.BatchNorm1d(3), torch.zeros(1, 3)),
        (nn.BatchNorm2d(3), torch.zeros(1, 3, 1, 1)),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), torch.zeros(1, 3)),
        (GhostBatchNorm2d(3, 2), torch.zeros(5, 3, 1, 1)),
    ],
)
def test_torch_refuses_what_the_plan_refuses(layer: nn.Module, input: Tensor) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(input)


# -- running statistics -------------------------------------------------------------------------------------------------------


def planned(limit: int = 4) -> BatchSizeScheduler:
    growing = batching.MultiStep(size=11, milestones=[0.7, 1.6], factor=2)
    return BatchSizeScheduler(growing, schedules.Cosine(), max_micro_batch_size=limit, seed=5)


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ("inside", 1),
        ("batch_end", 28),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("inside", 0), ("inside", 4), ("inside", 29), ("batch_end", 2)]),
    ],
)
def test_a_resumed_run_has_the_running_statistics_of_the_whole(tmp_path: Path, where: str, at: int) -> None:
    """After an exception inside a micro-batch the update is repeated, and must not count twice."""
    whole, resumed = network(norm=True), network(norm=True)
    fit(Plain(whole), planned())
    with pytest.raises(Stop):
        fit(Plain(network(norm=True)), planned(), SaveAndDie(at, tmp_path / "in.ckpt", where))
    fit(Plain(resumed), planned(), ckpt_path=tmp_path / "in.ckpt")
    assert {name: value.tolist() for name, value in resumed.state_dict().items()} == {
        name: value.tolist() for name, value in whole.state_dict().items()
    }


def test_an_update_that_is_cut_otherwise_on_resume_counts_once(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(Plain(network(norm=True)), planned(), SaveAndDie(4, tmp_path / "in.ckpt"))  # one of three micro-batches of update 1
    resumed, again = network(norm=True), planned(limit=6)
    fit(Plain(resumed), again, ckpt_path=tmp_path / "in.ckpt")
    passes = sum(update.accumulate_grad_batches for update in again.plan if update.start.step >= 1)
    assert int(resumed.get_buffer("1.num_batches_tracked")) == 3 + passes


@pytest.fixture
def net() -> nn.Sequential:
    """A batch norm in training, a frozen one, one without statistics, an instance norm, and a synchronised batch norm."""
    layers = (nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2, track_running_stats=False))
    return nn.Sequential(*layers, nn.InstanceNorm1d(2, track_running_stats=True), nn.SyncBatchNorm(2))


def micro_of(plan: Plan, index: int, rank: int) -> MicroBatch:
    update = next(iter(plan))
    return MicroBatch(update, index, *plan.pieces(update, rank)[index])


def test_each_device_counts_with_its_examples(net: nn.Sequential) -> None:
    """Of 5 examples the first device has 3, and the other, whose means are 1, has 2."""
    plan = Plan(schedules.Constant(), batching.Fixed(5), 5, 1, world_size=2, min_micro_batch_size=2)
    statistics = RunningStatistics(net)
    shares: list[float] = []

    def reduce(here: Tensor, reduce_op: str) -> Tensor:
        assert (here.dtype, reduce_op) == (torch.float64, "sum")
        shares.append(float(here[2]))  # of a running variance, which is 1
        return here + 2 / 5 * torch.ones_like(here)

    trainer: Any = SimpleNamespace(global_rank=0, strategy=SimpleNamespace(reduce=reduce))
    micro = micro_of(plan, 0, rank=0)
    statistics.before(micro)
    statistics.after(micro, plan, trainer)
    assert shares == [3 / 5]
    means = [buffer for name, buffer in net.named_buffers() if name.endswith("running_mean")]
    assert [mean.tolist() for mean in means] == [pytest.approx([0.4, 0.4]), [0, 0], pytest.approx([0.4, 0.4]), [0, 0]]
    assert torch.equal(net.get_buffer("0.running_var"), torch.ones(2))


def test_a_placeholder_leaves_no_trace(net: nn.Sequential) -> None:
    plan = Plan(schedules.Constant(), batching.Fixed(2), 5, 1, world_size=2, min_micro_batch_size=2)
    micro = micro_of(plan, 0, rank=1)
    assert micro.size == 0
    statistics = RunningStatistics(net)
    trainer: Any = SimpleNamespace(global_rank=1, strategy=SimpleNamespace(reduce=lambda here, reduce_op: here + torch.ones_like(here)))
    statistics.before(micro)
    net(torch.randn(2, 2))
    statistics.after(micro, plan, trainer)
    assert net.get_buffer("0.num_batches_tracked") == 0
    assert torch.equal(net.get_buffer("0.running_mean"), torch.ones(2)), "it is all the other device's"

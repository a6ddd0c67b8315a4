"""A fork goes on from a checkpoint with the choices that it names changed, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from noisescale.callbacks import BatchSizeScheduler, SafeCheckpointIO, SameRun
from noisescale.errors import ConfigError
from noisescale.execution.fork import Fork, ForkedCheckpointIO, forked, trunk_of
from noisescale.execution.same_run import PlanOfRun
from noisescale.execution.save_points import SavePoints
from noisescale.plans import Fixed
from noisescale.schedules import Constant, Cosine, Schedule
from tests.helpers.regression import N, Plain, network
from tests.helpers.trainings import Rates, fit, ignored, scheduler_of, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

CHOICES = {"seed": 0, "optimizer.lr": 0.1, "optimizer.momentum": 0.9}


class Momentum(Plain):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def batches(size: int = 8, schedule: Schedule | None = None, seed: int = 0) -> BatchSizeScheduler:
    return BatchSizeScheduler(Fixed(size=size, last="carry"), schedule or Constant(), seed=seed)


def guard(**changes: Any) -> SameRun:
    return SameRun({**CHOICES, **changes}, PlanOfRun({"batch.size": 8}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inside the second epoch of a training, after update 20, whose learning rate falls as a cosine."""
    path = tmp_path_factory.mktemp("fork") / "trunk.ckpt"
    fit(Momentum(network()), batches(schedule=Cosine(T_max=10)), guard(), SavePoints({1.55: path}), plugins=[SafeCheckpointIO()])
    return path


def branch(path: Path, fork: Fork, updates: int, size: int = 8, same_run: SameRun | None = None, *callbacks: pl.Callback) -> Momentum:
    module = Momentum(network())
    guards = [] if same_run is None else [fork.guard(same_run)]
    step = torch.load(path, weights_only=True)["global_step"]
    own = batches(size, seed=fork.seed or 0)
    fit(
        module,
        own,
        *guards,
        *callbacks,
        ckpt_path=path,
        plugins=[ForkedCheckpointIO(fork, bool(guards))],
        max_epochs=-1,
        max_steps=step + updates,
    )
    return module


@pytest.mark.parametrize("at", [0.5, 1.0, 1.55])
def test_a_fork_that_changes_nothing_is_the_training_that_goes_on(tmp_path: Path, at: float) -> None:
    path = tmp_path / "a.ckpt"
    fit(Momentum(network()), batches(), SavePoints({at: path}), plugins=[SafeCheckpointIO()])
    step = torch.load(path, weights_only=True)["global_step"]
    whole = Momentum(network())
    fit(whole, batches(), max_epochs=-1, max_steps=step + 15)
    assert torch.equal(weights(branch(path, Fork(), 15)), weights(whole))
    assert not torch.equal(weights(branch(path, Fork(seed=1), 15)), weights(whole))


def test_a_fork_holds_the_rate_of_the_checkpoint_times_its_own(saved: Path) -> None:
    rates, lr = Rates(), trunk_of(torch.load(saved, weights_only=True)).lr
    assert 0 < lr < 0.1
    branch(saved, Fork(rate=4.0), 5, 32, None, rates)
    assert rates.rates == [[4.0 * lr]] * 5


def test_a_fork_keeps_weights_momentum_and_position(saved: Path) -> None:
    before = torch.load(saved, weights_only=True)
    after = forked(before, Fork(rate=2.0, seed=3))
    assert all(torch.equal(value, before["state_dict"][key]) for key, value in after["state_dict"].items())
    assert str(after["optimizer_states"][0]["state"]) == str(before["optimizer_states"][0]["state"])
    states = [each["callbacks"]["BatchSizeScheduler"] for each in (before, after)]
    assert states[0]["loader"] == states[1]["loader"]
    assert [state["seed"] for state in states] == [0, 3]
    assert str(before) == str(torch.load(saved, weights_only=True)), "the checkpoint itself has changed"
    assert trunk_of(before).epoch == 20 * 8 / N


def test_branches_of_equal_length_see_the_same_number_of_examples(saved: Path) -> None:
    ends = set()
    for size in (2, 8, 32):
        module = branch(saved, Fork(rate=size / 8, seed=5), 64 // size, size)
        ends.add(scheduler_of(module.trainer).loader.cursor.examples_seen)  # type: ignore[union-attr]
    assert ends == {20 * 8 + 64}


def test_the_guard_lets_the_named_changes_pass_and_nothing_else(saved: Path) -> None:
    fork = Fork(2.0, 1, {"seed": 1, "batch.size": 16, "optimizer.lr": 0.2, "scheduler.held": True})
    branch(saved, fork, 1, 16, guard())
    silent = Fork(2.0, 1, {"seed": 1, "optimizer.lr": 0.2})
    with pytest.raises(ConfigError, match="seed=1: the checkpoint was trained with seed=0"):
        branch(saved, Fork(2.0, None, {}), 1, 16, guard(seed=1))
    with pytest.raises(ConfigError, match=r"optimizer\.momentum=0\.5: the checkpoint was trained with optimizer\.momentum=0\.9"):
        branch(saved, fork, 1, 16, guard(**{"optimizer.momentum": 0.5}))
    with pytest.raises(ConfigError, match=r"batch\.size=16: the checkpoint was trained with batch\.size=8"):
        branch(saved, silent, 1, 16, SameRun(CHOICES, PlanOfRun({"batch.size": 16})))


class Scheduled(Momentum):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def test_what_nothing_can_fork_from_is_refused(tmp_path: Path, saved: Path) -> None:
    whole = torch.load(saved, weights_only=True)
    state = whole["callbacks"]["BatchSizeScheduler"]
    inside = {**state, "loader": {**state["loader"], "micro_batches_done": 1}}
    bad = {
        "has no position in a plan to branch from": {**whole, "callbacks": {}},
        "has only weights": {key: value for key, value in whole.items() if key not in ("optimizer_states", "callbacks")},
        "was saved inside an update": {**whole, "callbacks": {"BatchSizeScheduler": inside}},
        "has the average of the weights in their place": {**whole, "averaging_state": {}},
    }
    for problem, checkpoint in bad.items():
        with pytest.raises(ConfigError, match=f"ckpt_path=x: {problem}"):
            forked(checkpoint, Fork(), "x")
    path = tmp_path / "scheduled.ckpt"
    own = BatchSizeScheduler(Fixed(size=8))
    fit(Scheduled(network()), own, SavePoints({0.5: path}))
    with pytest.raises(ConfigError, match="has a learning-rate scheduler of the module"):
        forked(torch.load(path, weights_only=True), Fork(), path)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="rate="):
            Fork(rate=rate)

"""A loop without Lightning trains as BatchSizeScheduler does: the same examples, the same weights, and the same after a resume."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, Subset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution import PlannedBatches
from noisescale.plans import BatchStrategy, Dual, Fixed, MultiStep, Plan
from tests.helpers.processes import python
from tests.helpers.refusals import error_of
from tests.helpers.regression import N, Plain, Regression, big_batch_gradient, network, sgd
from tests.helpers.rounding import GRADIENT_ROUNDINGS, assert_equal_to_rounding
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

SCHEDULE = schedules.Cosine(T_max=3)
GROWING = MultiStep(size=11, milestones=[0.7, 1.6], factor=2)
PLACES = (1, 3, 29, 31, 60)
"""Numbers of micro-batches after which a run is saved."""
UNEQUAL = [1.0 + index % 5 for index in range(N)]


def plan_of(strategy: BatchStrategy = GROWING, limit: int | None = 4, **options: Any) -> Plan:
    return Plan(SCHEDULE, strategy, N, 3, max_micro_batch_size=limit, **options)


def batches_of(plan: Plan, workers: int = 0, **options: Any) -> PlannedBatches:
    return PlannedBatches(plan, DataLoader(Regression(), shuffle=True, num_workers=workers), seed=5, **options)


class Loop:
    """The loop of the documentation, with all that it needs to be saved and resumed."""

    def __init__(self, batches: PlannedBatches, dropout: float = 0.3) -> None:
        self.batches, self.net = batches, network(dropout=dropout)
        self.optimizer = sgd(self.net.parameters())
        self.seen: list[list[int]] = []

    def run(self, most: int | None = None) -> Loop:
        """Train up to the end, or for `most` micro-batches."""
        plan, done = self.batches.plan, len(self.seen)
        assert plan.epochs is not None
        for _ in range(self.batches.epoch, plan.epochs):
            for micro, (x, y, index) in islice(self.batches, None if most is None else done + most - len(self.seen)):
                self.seen.append(index.tolist())
                for group in self.optimizer.param_groups:
                    group["lr"] = 0.1 * micro.lr_factor
                loss = F.mse_loss(self.net(x), y)
                (micro.share * loss).backward()
                if micro.is_last:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
        return self

    @property
    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.net.parameters()])

    def save(self, path: Path) -> None:
        parts: dict[str, Any] = {"net": self.net, "optimizer": self.optimizer, "batches": self.batches}
        torch.save({name: part.state_dict() for name, part in parts.items()}, path)

    def load(self, path: Path) -> Loop:
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        return self


def trained_by_the_callback(plan: Plan, **options: Any) -> Plain:
    module = Plain(network(dropout=options.pop("dropout", 0.3)))
    scheduler = BatchSizeScheduler(plan.strategy, SCHEDULE, max_micro_batch_size=plan.max_micro_batch_size, seed=5, **options)
    fit(module, scheduler)
    return module


@pytest.mark.parametrize("last", ["partial", "carry", "drop"])
def test_bit_for_bit_as_the_callback_does(last: str) -> None:
    """With 1, 2 or 4 micro-batches: Lightning divides a loss by k and the callback multiplies it by n k/B, which is n/B to the last bit."""
    plan = plan_of(MultiStep(size=7, milestones=[1], factor=2, last=last))
    assert {update.accumulate_grad_batches for update in plan} <= {1, 2, 4}
    assert {size for update in plan for _, size in plan.pieces(update, 0)} > {4}  # some micro-batches are smaller
    loop, module = Loop(batches_of(plan)).run(), trained_by_the_callback(plan)
    assert loop.seen == module.seen
    assert torch.equal(loop.weights, weights(module))


@pytest.mark.parametrize("strategy", [GROWING, Dual(9, rule="sgd", last="carry"), Fixed(27)], ids=lambda s: type(s).__name__)
def test_to_rounding_for_any_number_of_micro_batches(strategy: BatchStrategy) -> None:
    """(loss / k) (n k/B) is loss (n/B) only to rounding, unless k is a power of 2."""
    plan = plan_of(strategy)
    assert {update.accumulate_grad_batches for update in plan} - {1, 2, 4, 8}
    loop, module = Loop(batches_of(plan), dropout=0.0).run(), trained_by_the_callback(plan, dropout=0.0)
    assert loop.seen == module.seen
    assert_equal_to_rounding(loop.weights, weights(module), 40 * GRADIENT_ROUNDINGS)  # at most forty updates


@pytest.mark.parametrize("replacement", [True, False])
def test_sampling_weights_as_the_callbacks(replacement: bool) -> None:
    plan = plan_of(Fixed(16), replacement=replacement)
    options: dict[str, Any] = {"sampling_weights": UNEQUAL, "replacement": replacement}
    loop, module = Loop(batches_of(plan, **options)).run(), trained_by_the_callback(plan, **options)
    assert loop.seen == module.seen
    assert (len({index for part in loop.seen for index in part}) == N) or replacement
    assert torch.equal(loop.weights, weights(module))


def test_the_number_of_workers_does_not_change_a_bit() -> None:
    plan = plan_of(Fixed(16))
    assert torch.equal(Loop(batches_of(plan, workers=2)).run().weights, Loop(batches_of(plan)).run().weights)


@pytest.mark.parametrize("at", PLACES)
def test_saved_after_any_micro_batch_and_resumed_it_is_bit_for_bit_the_whole_run(at: int, tmp_path: Path) -> None:
    """Inside an update its micro-batches are run again, and after one they are not."""
    whole = Loop(batches_of(plan_of())).run()
    part = Loop(batches_of(plan_of())).run(at)
    part.save(tmp_path / "run.pt")
    assert len(part.seen) == at
    resumed = Loop(batches_of(plan_of())).load(tmp_path / "run.pt").run()
    assert torch.equal(resumed.weights, whole.weights)
    assert part.run().seen == whole.seen  # nor does it lose its place where it was only left for a while
    assert torch.equal(part.weights, whole.weights)
    assert whole.seen[-len(resumed.seen) :] == resumed.seen


def test_those_places_lie_inside_and_after_updates() -> None:
    batches = batches_of(plan_of())
    last = [micro.is_last for _ in range(3) for micro, _ in batches]
    assert {last[at - 1] for at in PLACES} == {True, False}


@pytest.mark.parametrize("world_size", [2, 3])
def test_on_several_devices_the_shares_of_an_update_add_up_to_the_big_batch(world_size: int) -> None:
    plan, data, net = plan_of(world_size=world_size), Regression(), network()
    devices = [batches_of(plan, rank=rank) for rank in range(world_size)]
    parts: dict[int, list[tuple[float, Tensor, Tensor]]] = {}
    for batches in devices:
        for micro, (_, _, index) in batches:
            found = big_batch_gradient(net, data, index)
            parts.setdefault(micro.update.start.step, []).append((micro.share, found, index if micro.size else index[:0]))
    assert len(parts) > 5
    for update in parts.values():
        assert sum(share for share, _, _ in update) == pytest.approx(1, rel=1e-15)
        expected = big_batch_gradient(net, data, torch.cat([index for _, _, index in update]))
        torch.testing.assert_close(sum(share * found for share, found, _ in update), expected, rtol=1e-12, atol=1e-14)


def test_a_finished_run_has_nothing_left() -> None:
    batches = batches_of(plan_of(max_updates=4))
    steps = [micro.update.start.step for _ in range(3) for micro, _ in batches]
    assert sorted(set(steps)) == [0, 1, 2, 3]
    assert list(batches) == []


def test_it_needs_no_lightning() -> None:
    code = (
        "import sys; from noisescale.execution import PlannedBatches; import noisescale.plans, noisescale.schedules;"
        "print([name for name in sys.modules if 'lightning' in name])"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_plan_for_other_data_is_refused() -> None:
    plan = plan_of()
    fewer = DataLoader(Subset(Regression(), range(N - 1)))
    error_of(lambda: PlannedBatches(plan, fewer), "num_examples", N, f"the loader draws from {N - 1} examples")
    some = [float(index > 2) for index in range(N)]
    error_of(lambda: batches_of(plan, sampling_weights=some), "num_examples", N, f"the loader draws from {N - 3} examples")
    error_of(lambda: batches_of(plan, sampling_weights=UNEQUAL), "replacement", "the examples are drawn with replacement")
    error_of(lambda: batches_of(plan_of(replacement=True)), "replacement", "the examples are drawn without replacement")
    bootstrap = DataLoader(Regression(), sampler=RandomSampler(range(N), replacement=True))
    error_of(lambda: PlannedBatches(plan, bootstrap), "replacement", "give Plan(replacement=...)")
    error_of(lambda: batches_of(plan, rank=1), "rank", "[0, 0]", "Plan(world_size=...)")
    error_of(lambda: PlannedBatches(plan, [1, 2]), "train_dataloader", "must be one torch DataLoader")  # type: ignore[arg-type]

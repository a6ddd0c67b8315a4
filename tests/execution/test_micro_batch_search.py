"""The largest micro-batch that fits: what is found was run, and no trace is left of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from noisescale.errors import ConfigError
from noisescale.execution import largest_micro_batch
from noisescale.execution.micro_batch_search import search
from tests.helpers.hungry import ERRORS, Hungry
from tests.helpers.own import TwoOptimizers, WithScheduler
from tests.helpers.processes import python

MARGINS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])


@given(capacity=st.integers(0, 3000), at_most=st.integers(1, 3000), multiple=st.integers(1, 40), margin=MARGINS)
def test_the_largest_size_with_its_margin(capacity: int, at_most: int, multiple: int, margin: float) -> None:
    ran: list[int] = []

    def runs(size: int) -> bool:
        ran.append(size)
        return size <= capacity

    found = search(runs, at_most, multiple=multiple, margin=margin)
    units = capacity // multiple
    useful = max(at_most // multiple, 1)
    free = int(units * (1 - margin) + 1e-9)
    assert found.size == multiple * (0 if units == 0 else min(useful, max(free, 1)))
    assert found.tried == len(ran) == len(set(ran))
    assert found.size == 0 or found.size in ran
    assert len(ran) <= 2 * int(useful / (1 - margin) + 2).bit_length() + 2


@given(capacity=st.integers(3, 500), at_most=st.integers(3, 500), at_least=st.integers(1, 3))
def test_the_smallest_size_is_found_even_if_it_leaves_no_margin(capacity: int, at_most: int, at_least: int) -> None:
    found = search(lambda size: size <= capacity, at_most, at_least=at_least, margin=0.9)
    assert found.size == min(at_most, max(capacity // 10, at_least))


@given(holes=st.sets(st.integers(1, 64)), at_most=st.integers(1, 64), margin=MARGINS)
def test_what_is_found_was_run_even_if_larger_sizes_fit_than_others(holes: set[int], at_most: int, margin: float) -> None:
    found = search(lambda size: size not in holes, at_most, margin=margin)
    assert found.size not in holes
    assert found.size <= at_most
    assert found.size > 0 or 1 in holes


RAN: list[tuple[str, int]] = []
"""What ran, of all copies: (forward, backward or step, size)."""


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = len(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        RAN.append(("backward", ctx.size))
        return gradient


class Network(nn.Module):
    """With batch norm, dropout, a frozen weight, a shared one, and a list; memory runs out above `capacity` examples."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.first, self.norm, self.drop, self.second = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8)
        self.second.weight.requires_grad_(False)
        self.again = self.first
        self.seen: list[int] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        RAN.append(("forward", len(x)))
        self.seen.append(len(x))
        if len(x) > self.capacity:
            raise ERRORS["cuda"]()
        hidden: Tensor = self.drop(torch.relu(self.norm(self.first(_Recorded.apply(x.requires_grad_())))))
        outputs: Tensor = self.second(hidden).sum(1)
        return outputs


def loss_of(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.mse_loss(module(x), y)


def batch_of(n: int) -> Any:
    return torch.ones(n, 3), torch.zeros(n)


class Adam(torch.optim.Adam):
    """Notes its steps, of all copies."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        RAN.append(("step", RAN[-1][1]))
        assert all(self.state[each]["exp_avg"] is not None for each in self.param_groups[0]["params"] if each.grad is not None)
        return loss


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]  # noqa: NPY002


@pytest.mark.parametrize("trained_before", [False, True])
def test_everything_is_as_it_was_and_the_size_was_run(trained_before: bool) -> None:
    module = Network(50)
    optimizer = Adam(module.parameters(), lr=0.1, weight_decay=0.1)
    if trained_before:
        loss_of(module, batch_of(8)).backward()
        optimizer.step()
    module.first.weight.register_hook(lambda gradient: pytest.fail("a hook of the original was called"))
    optimizer.register_step_post_hook(lambda *_: pytest.fail("a hook of the original was called"))
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict(), module.seen, states()))
    gradients = [parameter.grad for parameter in module.parameters()]
    RAN.clear()
    found = largest_micro_batch(module, batch_of, optimizer=optimizer, loss=loss_of, at_most=1000, at_least=2, margin=0.2)
    assert found == 40
    for what, times in {"forward": 2, "backward": 2, "step": 1}.items():
        assert RAN.count((what, 40)) == times
    assert max(size for what, size in RAN if what == "step") == 50
    after = module.state_dict(), optimizer.state_dict(), module.seen, states()
    assert str(after[1]) == str(before[1])
    assert all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    assert after[2:] == before[2:]
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
    assert module.training


@pytest.mark.parametrize("place", ["forward", "backward", "step"])
@pytest.mark.parametrize("error", ["cuda", "cpu", "python"])
def test_a_lightning_module_with_its_own_optimizer(place: str, error: str) -> None:
    module = Hungry(limit=10**9 if place == "step" else 20, place=place, error=error)
    optimizer = _Grows(module.parameters(), 20, ERRORS[error]) if place == "step" else None
    assert largest_micro_batch(module, batch_of, at_most=64, optimizer=optimizer, margin=0) == 20
    assert module.large == 0


class _Grows(torch.optim.SGD):
    """Runs out of memory in its step after a micro-batch of more than `limit` examples."""

    def __init__(self, parameters: Any, limit: int, error: Callable[[], BaseException]) -> None:
        super().__init__(parameters, lr=0.1)
        self.limit, self.error = limit, error

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if SIZES[-1] > self.limit:
            raise self.error()
        return loss


SIZES: list[int] = []


@pytest.fixture(autouse=True)
def _note_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Hungry.error

    def noted(self: Any, batch: Any) -> Tensor:
        SIZES.append(len(batch[0]))
        return error(self, batch)

    monkeypatch.setattr(Hungry, "error", noted)


@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(3, 3), torch.zeros(3)),
        [torch.ones(1, 3), torch.zeros(1)],
        batch_of,
    ],
)
def test_a_batch_is_repeated(batch: Any) -> None:
    assert largest_micro_batch(Hungry(limit=20), batch, at_most=64, margin=0) == 20


def test_a_scheduler_of_the_module_does_not_move() -> None:
    module = WithScheduler()
    ((optimizer,), (scheduler,)) = module.configure_optimizers()
    batch = torch.ones(4, 3), torch.zeros(4)
    assert largest_micro_batch(module, batch, optimizer=optimizer, at_most=64) == 64
    assert scheduler.last_epoch == 0
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert not getattr(optimizer, "_opt_called", False)


def test_other_errors_are_raised() -> None:
    module, before = Hungry(limit=4, error="a fault of the code"), states()
    with pytest.raises(RuntimeError, match="shapes"):
        largest_micro_batch(module, (torch.ones(4, 3), torch.zeros(4)), at_most=64)
    assert states() == before


def test_a_loss_that_bypasses_the_copy_is_refused() -> None:
    module = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="a copy of the module shares"):
        largest_micro_batch(module, torch.ones(4, 3), optimizer=optimizer, loss=lambda twin, x: module(x).sum(), at_most=8)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"margin": 1.0}, "margin=1.0: must be a finite number in [0, 1)"),
        ({"margin": -0.1}, "margin=-0.1: must be a finite number in [0, 1)"),
        ({"at_most": 0}, "at_most=0: must be a whole number of examples, at least 1"),
        ({"at_least": 65}, "at_least=65: must be a whole number of examples, 1 to 64"),
        ({"multiple": 0.5}, "multiple=0.5: must be a whole number of examples, at least 1"),
        ({"at_least": 10}, "at_least=10: not even so many examples fit into memory; use a smaller module, or another device"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        largest_micro_batch(Hungry(limit=8), (torch.ones(4, 3), torch.zeros(4)), **{"at_most": 64, **arguments})
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (nn.Linear(3, 1), "optimizer=None: the module has no configure_optimizers; give an optimizer of its parameters"),
        (TwoOptimizers(), "optimizer=None: configure_optimizers does not return exactly one; give the optimizer"),
    ],
)
def test_which_optimizer_must_be_clear(module: nn.Module, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        largest_micro_batch(module, torch.ones(4, 3), at_most=64)
    assert str(caught.value) == line


@pytest.mark.slow
def test_it_needs_no_lightning() -> None:
    program = "import sys; from noisescale.execution import largest_micro_batch; print({'pytorch_lightning', 'hydra'} & {*sys.modules})"
    assert python("-c", program).stdout == "set()\n"

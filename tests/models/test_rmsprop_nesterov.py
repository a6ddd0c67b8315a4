"""RMSProp with Nesterov momentum, compared with the equations of the book."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from noisescale.models.optimizers import RMSpropNesterov
from tests.helpers.optimizers import batch, equal, factory, network, train

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Book:
    """Algorithm 8.6 in the letters of the book: theta, velocity v, running average r of the squared gradient."""

    theta: Vector
    v: Vector
    r: Vector

    def interim(self, alpha: float) -> Vector:
        """theta + alpha v, the point at which the gradient is taken."""
        return self.theta + alpha * self.v

    def step(self, g: Vector, epsilon: float, rho: float, alpha: float, eps: float) -> Book:
        r = rho * self.r + (1 - rho) * g * g
        v = alpha * self.v - epsilon / (np.sqrt(r) + eps) * g
        return Book(self.theta + v, v, r)


def assert_equal_but_for_rounding(found: Tensor, expected: Vector, *terms: Vector) -> None:
    """Assert equality up to a dozen roundings, each of at most one unit in the last place of the sum of `expected` and `terms`."""
    size = sum((np.abs(term) for term in (expected, *terms)), start=np.zeros_like(expected))
    excess = np.abs(found.detach().numpy() - expected) - 12 * np.finfo(np.float64).eps * size
    assert excess.max() <= 0.0


RATES = {
    "constant": [0.01] * 120,
    "cosine": [0.01 * (1 + math.cos(math.pi * k / 120)) / 2 for k in range(120)],
    "steps up and down": [(0.002, 0.02, 0.0)[k // 10 % 3] for k in range(120)],
}


def quadratic() -> tuple[Vector, Vector]:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    return root @ root.T + np.eye(5), 10.0 * rng.normal(size=5)


# Near a minimum g / sqrt(r) remains about as large as 1, so rounding errors grow: two runs of the BOOK's own equations that start 1e-15
# apart are 1e-2 apart after 120 steps. So each step is compared separately, starting from the current state of the optimizer. Together
# with the initial zeros, these steps are the whole trajectory.


@pytest.mark.parametrize("schedule", RATES)
@pytest.mark.parametrize(("rho", "alpha", "eps"), [(0.99, 0.9, 0.0), (0.9, 0.5, 1e-8), (0.5, 0.9, 1e-3), (0.9, 0.0, 0.0)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_each_step_on_a_quadratic_is_the_books(schedule: str, rho: float, alpha: float, eps: float, decay: float) -> None:
    hessian, start = quadratic()
    p = nn.Parameter(torch.tensor(start))
    optimizer = RMSpropNesterov([p], RATES[schedule][0], alpha=rho, momentum=alpha, eps=eps, weight_decay=decay)
    before = Book(start, np.zeros(5), np.zeros(5))
    for rate in RATES[schedule]:
        optimizer.param_groups[0]["lr"] = rate
        point = p.detach().numpy().copy()
        gradient = hessian @ point + decay * point
        p.grad = torch.tensor(hessian @ point)
        given = p.grad.clone()
        optimizer.step()
        assert torch.equal(p.grad, given)
        expected = before.step(gradient, rate, rho, alpha, eps)
        state = optimizer.state[p]
        parts = np.abs(hessian @ point) + np.abs(decay * point)  # where the two cancel, their rounding errors do not
        kick = rate * parts / (np.sqrt(expected.r) + eps)
        assert_equal_but_for_rounding(state["square_avg"], expected.r, before.r, parts * parts)
        assert_equal_but_for_rounding(state["velocity"], expected.v, before.v, kick)
        assert_equal_but_for_rounding(p, expected.interim(alpha), before.theta, before.v, expected.v, kick)
        velocity = state["velocity"].numpy().copy()
        before = Book(p.detach().numpy() - alpha * velocity, velocity, state["square_avg"].numpy().copy())
    assert np.abs(p.detach().numpy() - start).max() > 0.1


@pytest.mark.parametrize("schedule", RATES)
def test_a_short_trajectory_on_a_quadratic_is_the_books(schedule: str) -> None:
    """The same without reading the optimizer's state: far from the minimum, ten steps do not amplify rounding errors."""
    hessian, start = quadratic()
    book = Book(start, np.zeros(5), np.zeros(5))
    p = nn.Parameter(torch.tensor(start))
    optimizer = RMSpropNesterov([p], RATES[schedule][0], alpha=0.9, momentum=0.5)
    matrix = torch.tensor(hessian)
    for rate in RATES[schedule][5:15]:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (p @ matrix @ p / 2).backward()
        optimizer.step()
        book = book.step(hessian @ book.interim(0.5), rate, 0.9, 0.5, 1e-8)
        error = np.abs(p.detach().numpy() - book.interim(0.5)).max()
        assert error <= 10 * 64 * np.finfo(np.float64).eps * np.abs(start).max()
    assert np.abs(p.detach().numpy() - start).max() > 0.1


@pytest.mark.parametrize("schedule", RATES)
def test_each_step_on_a_network_is_the_books(schedule: str) -> None:
    """A copied network, which no optimizer touches, takes the gradient at the interim point; there are two groups with the same lr."""
    model, copied = network().double(), network().double()
    images, labels = batch()
    images = images.double()
    first, *rest = model.parameters()
    optimizer = RMSpropNesterov([{"params": [first]}, {"params": rest}], 1.0, alpha=0.95, momentum=0.8)
    start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    before = {name: Book(p.detach().numpy().copy(), np.zeros(p.shape), np.zeros(p.shape)) for name, p in model.named_parameters()}
    for rate in [rate / 10 for rate in RATES[schedule][:60]]:
        for group in optimizer.param_groups:
            group["lr"] = rate
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()).detach(), copied.parameters())
        for each in (model, copied):
            each.zero_grad()
            F.cross_entropy(each(images), labels).backward()
        optimizer.step()
        for (name, p), twin in zip(model.named_parameters(), copied.parameters(), strict=True):
            assert twin.grad is not None
            book = before[name]
            expected = book.step(twin.grad.numpy(), rate, 0.95, 0.8, 1e-8)
            state = optimizer.state[p]
            assert_equal_but_for_rounding(state["square_avg"], expected.r, book.r)
            assert_equal_but_for_rounding(state["velocity"], expected.v, book.v)
            assert_equal_but_for_rounding(p, expected.interim(0.8), book.theta, book.v, expected.v)
            velocity = state["velocity"].numpy().copy()
            before[name] = Book(p.detach().numpy() - 0.8 * velocity, velocity, state["square_avg"].numpy().copy())
    assert (nn.utils.parameters_to_vector(model.parameters()) - start).abs().max() > 0.01


def test_the_velocity_carries_the_rate() -> None:
    """With lr = 0 the velocity gets nothing new and shrinks by `momentum` in each step; torch's RMSprop stops at once."""
    p, q = nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))
    ours = RMSpropNesterov([p], 0.1, alpha=0.9, momentum=0.5)
    theirs = torch.optim.RMSprop([q], 0.1, alpha=0.9, momentum=0.5)
    for optimizer, x in ((ours, p), (theirs, q)):
        x.grad = torch.ones_like(x)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.0
    velocity, before, stopped = ours.state[p]["velocity"].clone(), p.detach().clone(), q.detach().clone()
    ours.step()
    theirs.step()
    torch.testing.assert_close(ours.state[p]["velocity"], 0.5 * velocity)
    torch.testing.assert_close(p.detach(), before + 0.25 * velocity)
    assert torch.equal(q.detach(), stopped)


@settings(max_examples=25)
@given(alpha=st.floats(0.0, 0.99), weight_decay=st.floats(0.0, 0.1), lr=st.floats(1e-4, 1e-2))
def test_without_momentum_it_is_torchs_rmsprop(alpha: float, weight_decay: float, lr: float) -> None:
    ours, theirs = network().double(), network().double()
    images, labels = batch()
    a = RMSpropNesterov(ours.parameters(), lr, alpha=alpha, momentum=0.0, weight_decay=weight_decay)
    b = torch.optim.RMSprop(theirs.parameters(), lr, alpha=alpha, weight_decay=weight_decay)
    for _ in range(5):
        before = [p.detach().numpy().copy() for p in theirs.parameters()]
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            F.cross_entropy(model(images.double()), labels).backward()
            optimizer.step()
        for p, q, start in zip(ours.parameters(), theirs.parameters(), before, strict=True):
            assert q.grad is not None
            r = b.state[q]["square_avg"]
            parts = np.abs(q.grad.numpy()) + weight_decay * np.abs(start)  # where the two cancel, their rounding errors do not
            assert_equal_but_for_rounding(a.state[p]["square_avg"], r.numpy(), parts * parts)
            assert_equal_but_for_rounding(p, q.detach().numpy(), start, lr * parts / (np.sqrt(r.numpy()) + b.defaults["eps"]))
            # The next step of both starts from the same state, as above: the size of a step does not depend on that of the gradient.
            q.data.copy_(p.data)
            r.copy_(a.state[p]["square_avg"])


def test_a_zero_gradient_moves_nothing_and_gives_no_nan() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = RMSpropNesterov([p], 0.1, alpha=0.9, momentum=0.9)
    p.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(p, torch.ones(3))


def test_parameters_without_a_gradient_stay_and_get_no_state() -> None:
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups: list[dict[str, Any]] = [{"params": [p]}, {"params": [q], "lr": 0.0}]
    optimizer = RMSpropNesterov(groups, 0.1, alpha=0.9, momentum=0.9)
    q.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(p, torch.ones(3))
    assert p not in optimizer.state
    assert torch.equal(q, torch.ones(3))  # its group has lr = 0


@pytest.mark.parametrize("through", ["state_dict", "pickle"])
def test_resume_is_bit_identical(through: str) -> None:
    def make(model: nn.Module) -> Optimizer:
        return factory("rmsprop_nesterov", lr=0.01, weight_decay=0.01, decay_biases_and_norms=False)(model)

    straight, stopped, resumed = network(), network(), network(seed=1)
    first, second = make(straight), make(stopped)
    train(straight, first, 12)
    train(stopped, second, 5)
    if through == "pickle":
        resumed, optimizer = pickle.loads(pickle.dumps((stopped, second)))
    else:
        resumed.load_state_dict(stopped.state_dict())
        optimizer = make(resumed)
        optimizer.load_state_dict(pickle.loads(pickle.dumps(second.state_dict())))
    train(resumed, optimizer, 7)
    assert equal(straight, resumed)


def test_a_closure_is_evaluated_once_with_gradients_and_its_loss_returned() -> None:
    p, calls = nn.Parameter(torch.ones(3)), []
    optimizer = RMSpropNesterov([p], 0.1, alpha=0.9, momentum=0.9)

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        calls.append(1)
        return float(loss.detach())

    assert optimizer.step(closure) == 3.0
    assert calls == [1]
    assert (p < 1).all()
    assert optimizer.step() is None


def test_sparse_gradients_and_complex_parameters_are_refused() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"^RMSpropNesterov does not support sparse gradients: build the embedding with sparse"):
        RMSpropNesterov(embedding.parameters(), 0.1, alpha=0.9, momentum=0.9).step()
    p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"^RMSpropNesterov does not support complex parameters"):
        RMSpropNesterov([p], 0.1, alpha=0.9, momentum=0.9).step()

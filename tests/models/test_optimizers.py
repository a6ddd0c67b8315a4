"""Optimizers: configs, param groups, errors; RMSProp with Nesterov momentum compared with the equations of the book."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from noisescale.errors import ConfigError
from noisescale.models import GhostBatchNorm2d
from noisescale.models.optimizers import OptimizerFactory, RMSpropNesterov, parameter_groups
from tests.helpers.repository import CONF
from tests.helpers.rounding import assert_equal_to_rounding

OPTIMIZERS = CONF / "optimizer"
NAMES = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop_nesterov", "adadelta", "adam", "adamw"]
Vector = npt.NDArray[np.float64]


def factory(name: str, **options: Any) -> OptimizerFactory:
    return OptimizerFactory.from_config(instantiate(OmegaConf.merge(OmegaConf.load(OPTIMIZERS / f"{name}.yaml"), options)))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(48, 6, generator=generator)
    return images, images[:, :3].argmax(1)


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[float]:
    """The losses of `steps` updates, in the precision of the model."""
    images, labels = batch()
    images = images.to(next(model.parameters()).dtype)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


# Configs


def test_every_config_is_known_here() -> None:
    assert {path.stem for path in OPTIMIZERS.glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_composed_config_builds_and_learns(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+optimizer={name}", "optimizer.weight_decay=1e-4"])
    make = pickle.loads(pickle.dumps(OptimizerFactory.from_config(instantiate(config.optimizer))))
    model = network()
    optimizer = make(model)
    losses = train(model, optimizer, 60)
    assert losses[-1] < 0.8 * losses[0]
    assert [group["lr"] for group in optimizer.param_groups] == [config.optimizer.lr]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4]


@pytest.mark.parametrize("name", NAMES)
def test_with_everything_decayed_it_is_plain_torch_bit_for_bit(name: str) -> None:
    options: Any = OmegaConf.to_container(OmegaConf.load(OPTIMIZERS / f"{name}.yaml"))
    options["weight_decay"] = 0.01
    assert options.pop("decay_biases_and_norms") is True
    ours, plain = network(), network()
    partial = instantiate(options)
    assert train(ours, factory(name, weight_decay=0.01)(ours), 10) == train(plain, partial(plain.parameters()), 10)
    assert equal(ours, plain)


@pytest.mark.parametrize("name", NAMES)
def test_the_decay_flag_spares_biases_and_norms_only(name: str) -> None:
    """With a zero gradient only weight decay moves parameters. How far depends on the method, so the test only asks whether each moved."""
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = factory(name, weight_decay=0.1, decay_biases_and_norms=False)(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, start[key])}
    assert moved == {"0.weight", "3.weight"}


def test_a_checkpoint_of_an_optimizer_holds_plain_values_only(tmp_path: Path) -> None:
    model = network()
    optimizer = factory("adam", betas=[0.8, 0.9])(model)
    train(model, optimizer, 2)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["param_groups"][0]["betas"] == (0.8, 0.9)


def test_a_factory_makes_a_new_optimizer_each_time() -> None:
    make, model = factory("momentum"), network()
    train(model, make(model), 2)
    assert not make(model).state


def test_the_weight_decay_of_a_partial_without_one_is_the_classes_own() -> None:
    make = OptimizerFactory(functools.partial(torch.optim.AdamW, lr=0.1), decay_biases_and_norms=False)
    assert [group["weight_decay"] for group in make(network()).param_groups] == [0.01, 0.0]


# Implementations: fused, foreach

FUSED = ["sgd", "momentum", "nesterov", "adagrad", "adam", "adamw"]
FOREACH = [name for name in NAMES if name != "rmsprop_nesterov"]


@pytest.mark.parametrize(("name", "how"), [*((name, "fused") for name in FUSED), *((name, "foreach") for name in FOREACH)])
@pytest.mark.parametrize("spared", [False, True])
def test_every_implementation_takes_the_same_steps(name: str, how: str, spared: bool) -> None:
    """In double precision, so that only rounding can make a difference; the learning rate changes from step to step.

    30 updates, forward and backward through three layers, with sums over 48 examples: 10^4 roundings. The bound is ten times that, because
    some of the methods divide by the size of the gradient.
    """
    models = [network().double() for _ in range(2)]
    options = {"weight_decay": 0.01, "decay_biases_and_norms": not spared}
    optimizers = [factory(name, **options, foreach=False)(models[0]), factory(name, **options, **{how: True})(models[1])]
    images, labels = batch()
    for step in range(30):
        for model, optimizer in zip(models, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * (1 + step % 3)
            optimizer.zero_grad()
            F.cross_entropy(model(images.double()), labels).backward()
            optimizer.step()
    assert optimizers[1].param_groups[0][how] is True
    assert not equal(models[0], network().double())
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_equal_to_rounding(q, p, 100_000)


def test_the_configs_offer_what_torch_has() -> None:
    for name in NAMES:
        config: Any = OmegaConf.load(OPTIMIZERS / f"{name}.yaml")
        assert ("fused" in config, "foreach" in config) == (name in FUSED, name in FOREACH)
        assert config.get("fused") is config.get("foreach") is None


def test_a_resumed_optimizer_keeps_its_own_implementation() -> None:
    # In double precision, because the size of an Adam step does not depend on that of the gradient: rounding of a gradient near 0 can show.
    before, after = network().double(), network().double()
    first = factory("adam", foreach=True)(before)
    train(before, first, 3)
    after.load_state_dict(before.state_dict())
    resumed = factory("adam", fused=True, decay_biases_and_norms=True, lr=0.5)(after)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [(group["fused"], group["foreach"]) for group in resumed.param_groups] == [(True, None)]
    assert resumed.param_groups[0]["lr"] == first.param_groups[0]["lr"]  # all other options are those of the checkpoint, as usual
    train(before, first, 3)
    train(after, resumed, 3)
    for p, q in zip(before.parameters(), after.parameters(), strict=True):
        assert_equal_to_rounding(q, p, 100_000)


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_step_from_buffers_of_another_memory_order(name: str) -> None:
    """Torch's fused steps pair the entries of parameter and buffer by their place in memory, whatever their strides."""

    def model(channels_last: bool) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(45, 3)).double()
        return net.to(memory_format=torch.channels_last) if channels_last else net

    def steps(net: nn.Module, optimizer: Optimizer) -> None:
        images = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(images), torch.tensor([0, 1, 2, 0])).backward()
            optimizer.step()

    plain, ordered = model(False), model(True)
    first, resumed = factory(name)(plain), factory(name, fused=True)(ordered)
    steps(plain, first)
    ordered.load_state_dict(plain.state_dict())
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(plain, first)
    steps(ordered, resumed)
    for p, q in zip(plain.parameters(), ordered.parameters(), strict=True):
        assert_equal_to_rounding(q, p, 100_000)


# Param groups


class Everything(nn.Module):
    """One layer of each kind whose parameters do not decay, and some layers whose parameters do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm2d(4),
                GhostBatchNorm2d(4, 8),
                nn.SyncBatchNorm(4),
                nn.InstanceNorm2d(4, affine=True),
                nn.GroupNorm(2, 4),
                nn.LayerNorm(4),
                nn.RMSNorm(4),
            ]
        )
        self.attention = nn.MultiheadAttention(4, 2)
        self.lstm = nn.LSTM(4, 4)
        self.scale = nn.Parameter(torch.ones(4))


def test_groups_by_kind_of_layer_and_by_name() -> None:
    model = Everything()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = parameter_groups(model, 0.5, decay_biases_and_norms=False)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert [names[id(p)] for p in decayed["params"]] == [
        "scale",
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    ]
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    (everything,) = parameter_groups(model, 0.5, decay_biases_and_norms=True)
    assert [id(p) for p in everything["params"]] == [id(p) for p in model.parameters()]


def test_shared_parameters_come_once_and_are_spared_if_any_use_is() -> None:
    first, second, norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.LayerNorm(3)
    second.weight = first.weight
    norm.weight = first.bias
    second.scale = norm.bias
    twice = nn.Module()
    twice.scale = nn.Parameter(torch.ones(3))
    twice.bias = twice.scale
    decayed, spared = parameter_groups(nn.ModuleList([second, first, norm, twice]), 0.1, decay_biases_and_norms=False)
    assert [id(p) for p in decayed["params"]] == [id(first.weight)]
    assert {id(p) for p in spared["params"]} == {id(first.bias), id(second.bias), id(norm.bias), id(twice.bias)}
    assert len(spared["params"]) == 4


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1, True)) == 4
    (group,) = parameter_groups(nn.LayerNorm(4), 0.1, decay_biases_and_norms=False)
    assert group["weight_decay"] == 0.0
    (group,) = parameter_groups(nn.Linear(4, 4, bias=False), 0.1, decay_biases_and_norms=False)
    assert group["weight_decay"] == 0.1
    with pytest.raises(ValueError, match="no trainable parameter"):
        factory("sgd")(model.requires_grad_(False))


# Errors


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("sgd", {"lr": 0.0}, "lr=0.0: must be a finite number in (0, inf)"),
        ("sgd", {"lr": math.nan}, "lr=nan: must be a finite number in (0, inf)"),
        ("adam", {"lr": math.inf}, "lr=inf: must be a finite number in (0, inf)"),
        ("adam", {"lr": "fast"}, "lr=fast: must be a finite number in (0, inf)"),
        ("adamw", {"weight_decay": -0.1}, "weight_decay=-0.1: must be a finite number in [0, inf)"),
        ("sgd", {"weight_decay": math.nan}, "weight_decay=nan: must be a finite number in [0, inf)"),
        ("momentum", {"momentum": 1.0}, "momentum=1.0: must be a finite number in [0, 1)"),
        ("momentum", {"momentum": -0.5}, "momentum=-0.5: must be a finite number in [0, 1)"),
        ("rmsprop", {"alpha": 1.5}, "alpha=1.5: must be a finite number in [0, 1)"),
        ("rmsprop_nesterov", {"momentum": 1}, "momentum=1: must be a finite number in [0, 1)"),
        ("adadelta", {"rho": 1.0}, "rho=1.0: must be a finite number in [0, 1)"),
        ("adam", {"betas": [0.9, 1.0]}, "betas=1.0: must be a finite number in [0, 1)"),
        ("adam", {"betas": 0.9}, "betas=0.9: must be two numbers in [0, 1)"),
        ("adam", {"eps": -1.0}, "eps=-1.0: must be a finite number in [0, inf)"),
        ("sgd", {"fused": "yes"}, "fused=yes: must be true, false or null; null is torch's own choice"),
        ("adam", {"fused": True, "foreach": True}, "fused=True: cannot be combined with foreach=true; set one of them to null"),
        ("sgd", {"decay_biases_and_norms": "no"}, "decay_biases_and_norms=no: must be true or false; true is what torch does"),
        (
            "sgd",
            {"decay_biases_and_norms": None},
            "decay_biases_and_norms=None: must be true or false; true is what torch does",
        ),
        (
            "rmsprop_nesterov",
            {"centered": True},
            "centered=True: is not an option of RMSpropNesterov; its options: lr, alpha, momentum, eps, weight_decay",
        ),
        ("nesterov", {"momentum": 0.0}, "_target_=SGD: Nesterov momentum requires a momentum and zero dampening"),
    ],
)
def test_a_bad_option_is_one_line_with_its_key(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        factory(name, **options)
    assert str(caught.value) == line


def test_a_missing_rate_and_a_missing_flag_are_one_line_too() -> None:
    with pytest.raises(ConfigError, match=r"^_target_=RMSpropNesterov: .*missing 1 required positional argument: 'lr'$"):
        OptimizerFactory(functools.partial(RMSpropNesterov, alpha=0.9, momentum=0.9), decay_biases_and_norms=True)
    with pytest.raises(ConfigError, match=r"^decay_biases_and_norms=None: must be true or false"):
        OptimizerFactory.from_config(functools.partial(torch.optim.SGD, lr=0.1))


@pytest.mark.parametrize("key", ["lr", "alpha", "momentum", "eps", "weight_decay"])
def test_the_class_itself_refuses_values_out_of_range(key: str) -> None:
    options = {"lr": 0.1, "alpha": 0.9, "momentum": 0.9, "eps": 1e-8, "weight_decay": 0.0, key: -1.0}
    with pytest.raises(ConfigError, match=f"^{key}=-1.0: must be a finite number"):
        RMSpropNesterov([nn.Parameter(torch.zeros(1))], **options)


# RMSProp with Nesterov momentum


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

"""Optimizers: configs, implementations, param groups, errors."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import pickle
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer

from noisescale.errors import ConfigError
from noisescale.models import GhostBatchNorm2d
from noisescale.models.optimizers import OptimizerFactory, RMSpropNesterov, parameter_groups
from tests.helpers.optimizers import OPTIMIZERS, batch, equal, factory, network, train
from tests.helpers.refusals import refusal_of
from tests.helpers.repository import CONF
from tests.helpers.rounding import assert_equal_to_rounding

NAMES = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop_nesterov", "adadelta", "adam", "adamw"]


# Configs


def test_every_config_is_known_here() -> None:
    assert {path.stem for path in OPTIMIZERS.glob("*.yaml")} == {*NAMES, "own"}


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


# Any optimizer

CLASSES = {name: each for name, each in vars(torch.optim).items() if isinstance(each, type) and issubclass(each, Optimizer)}
EVERY = sorted({*CLASSES} - {"Optimizer"})
REFUSED = {
    "LBFGS": "_target_=LBFGS: evaluates the loss several times in each step, but an update of a plan has one gradient; choose an optimizer "
    "whose step needs no closure",
    "SparseAdam": "_target_=SparseAdam: needs sparse gradients, which no layer here has; choose torch.optim.Adam",
}


@pytest.mark.parametrize("name", EVERY)
def test_every_optimizer_of_torch_can_be_named_or_is_refused_in_one_line(name: str) -> None:
    options: dict[str, Any] = {"_target_": f"torch.optim.{name}"}
    if name in REFUSED:
        assert refusal_of(lambda: factory("own", **options)) == REFUSED[name]
        return
    make, model = factory("own", **options), network()
    if name == "Muon":
        assert refusal_of(lambda: make(model)).startswith("optimizer=Muon: Muon only supports 2D parameters")
        return
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = make(model)
    losses = train(model, optimizer, 3)
    assert all(map(math.isfinite, losses))
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.001


@pytest.mark.parametrize("name", ["RAdam", "NAdam", "Adamax", "AdamW", "Adam"])
def test_a_relative_of_adam_takes_the_keys_of_its_option_that_it_has_and_those_that_are_null_are_left_out(name: str) -> None:
    optimizer = factory("adam", _target_=f"torch.optim.{name}", betas=[0.8, 0.9], weight_decay=0.1)(network())
    assert type(optimizer).__name__ == name
    assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.8, 0.9), 0.1)


@pytest.mark.parametrize(
    ("option", "name", "key"), [("adam", "Rprop", "betas"), ("momentum", "RAdam", "momentum"), ("rmsprop", "SGD", "alpha")]
)
def test_a_key_with_a_value_that_the_class_does_not_have_is_refused(option: str, name: str, key: str) -> None:
    line = refusal_of(lambda: factory(option, _target_=f"torch.optim.{name}"))
    assert line.startswith(f"{key}=")
    assert f": is not an option of {name}; its options: " in line


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rmsprop_nesterov"])
def test_the_values_of_an_option_are_torchs_defaults(name: str) -> None:
    """So that naming a key changes nothing: betas, eps, alpha, rho and, but for lr and what gives the option its name, all others."""
    config: Any = OmegaConf.to_container(OmegaConf.load(OPTIMIZERS / f"{name}.yaml"))
    parameters = inspect.signature(pkgutil.resolve_name(config["_target_"])).parameters
    differs = {"lr", "momentum", "nesterov"} if name in ("momentum", "nesterov") else {"lr"}
    for key in {*config} - {"_target_", "_partial_", "decay_biases_and_norms", *differs}:
        default = parameters[key].default
        assert (tuple(config[key]) if isinstance(config[key], list) else config[key]) == default, key
    named = {"betas", "eps", "alpha", "rho", "momentum"} & {*parameters}
    assert named - {*config} <= ({"momentum"} if name == "sgd" else set())


def test_the_values_of_rmsprop_nesterov_are_those_of_its_class() -> None:
    config = OmegaConf.load(OPTIMIZERS / "rmsprop_nesterov.yaml")
    parameters = inspect.signature(RMSpropNesterov).parameters
    assert (config.eps, config.weight_decay) == (parameters["eps"].default, parameters["weight_decay"].default)


def test_what_is_null_is_left_to_the_class() -> None:
    assert factory("own", _target_="torch.optim.AdamW")(network()).defaults["weight_decay"] == 0.01
    assert factory("adam", betas=None)(network()).defaults["betas"] == (0.9, 0.999)


def test_betas_reach_the_optimizer() -> None:
    model, twin = network(), network()
    losses = train(model, factory("adam", betas=[0.5, 0.6], eps=1e-3)(model), 5)
    assert losses == train(twin, torch.optim.Adam(twin.parameters(), lr=0.001, betas=(0.5, 0.6), eps=1e-3), 5)

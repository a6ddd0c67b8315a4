"""Optimizers: configs, param groups, errors."""

from __future__ import annotations

import functools
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from noisescale.errors import ConfigError
from noisescale.models import GhostBatchNorm2d
from noisescale.models.optimizers import OptimizerFactory, RMSpropNesterov, parameter_groups
from tests.helpers.optimizers import NAMES, OPTIMIZERS, equal, factory, network, train
from tests.helpers.repository import CONF

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

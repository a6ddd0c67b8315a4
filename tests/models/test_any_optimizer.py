"""Any optimizer of torch, named by its class, and the keys that it takes."""

from __future__ import annotations

import inspect
import math
import pkgutil
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.optim import Optimizer

from noisescale.models.optimizers import RMSpropNesterov
from tests.helpers.optimizers import NAMES, OPTIMIZERS, factory, network, train
from tests.helpers.refusals import refusal_of

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

"""Fused and foreach implementations of the optimizers take the same steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer

from tests.helpers.optimizers import NAMES, OPTIMIZERS, batch, equal, factory, network, train
from tests.helpers.rounding import assert_equal_to_rounding

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

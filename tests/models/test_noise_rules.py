"""How the noise of each optimizer depends on B at equal examples: measured on a noisy quadratic, for the rules of `plans.noise`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisescale.plans.noise import NOISE_RULES, noise_depends_on_batch, noise_rule_of
from tests.helpers.optimizers import OPTIMIZERS, factory

EXAMPLES = 8 * 1500
REPLICAS = 6000
BIAS = 0.03
"""The risk is proportional to lr and to a power of B only for a small product of lr and curvature; here that costs up to 3 %."""

RATES = {"sgd": 0.02, "momentum": 0.002, "nesterov": 0.002, "adadelta": 1.0, "adagrad": 0.1, "rmsprop_nesterov": 0.0003}
SMALL = 0.003
"""Learning rates: small, so that the weights stay where the gradient is mostly noise. 0.003 for those that are not named."""

OTHERS: dict[str, Callable[..., Any]] = {
    "ASGD": torch.optim.ASGD,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": partial(torch.optim.RAdam, betas=(0.9, 0.98)),  # with .999 it would still be warming up
}
"""Optimizers without a file in conf/."""
NAMES = [*sorted({path.stem for path in OPTIMIZERS.glob("*.yaml")} - {"own"}), *OTHERS]


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(REPLICAS))


def optimizer_of(name: str, weights: Weights, scale: float) -> torch.optim.Optimizer:
    lr = scale * RATES.get(name.lower().replace("asgd", "sgd"), SMALL)
    optimizer: torch.optim.Optimizer = OTHERS[name]([weights.weights], lr=lr) if name in OTHERS else factory(name, lr=lr)(weights)
    return optimizer


@cache
def risk(name: str, scale: float, batch_size: int) -> Tensor:
    """L = theta^2/2 of each replica after EXAMPLES examples from the minimum on, with `scale` times the learning rate.

    The gradient of an update is theta plus noise of variance 1/B. All of these optimizers treat each coordinate by itself, so that every
    coordinate is a replica of its own.
    """
    weights = Weights()
    optimizer = optimizer_of(name, weights, scale)
    generator = torch.Generator().manual_seed(batch_size)
    for _ in range(EXAMPLES // batch_size):
        noise = torch.randn(REPLICAS, generator=generator) / math.sqrt(batch_size)
        weights.weights.grad = weights.weights.detach() + noise
        optimizer.step()
    return weights.weights.detach().double().square() / 2


def log_ratio(first: Tensor, second: Tensor) -> tuple[float, float]:
    """The logarithm of the ratio of two mean risks, and its standard error."""
    errors = [float(each.std() / each.mean()) / math.sqrt(REPLICAS) for each in (first, second)]
    return math.log(first.mean() / second.mean()), math.hypot(*errors)


def exponent_of(name: str) -> float:
    """p of the noise lr n(B)^p: that of the rule, and 0 where the noise does not depend on B."""
    optimizer = type(optimizer_of(name, Weights(), 1.0)).__name__
    return NOISE_RULES[noise_rule_of(optimizer)] if noise_depends_on_batch(optimizer) else 0.0


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", NAMES)
def test_four_times_the_batch_has_less_noise_by_the_rule(name: str) -> None:
    """At the same learning rate the risk falls by 4^p: by 4 for SGD, by 2 for adaptive optimizers, and not at all for Adagrad."""
    found, error = log_ratio(risk(name, 1.0, 8), risk(name, 1.0, 32))
    assert abs(found - exponent_of(name) * math.log(4)) <= BIAS + 4 * error < math.log(2) / 4


@pytest.mark.cases(5)
@pytest.mark.parametrize("name", NAMES)
def test_the_rate_that_the_rule_gives_to_four_times_the_batch_keeps_the_noise(name: str) -> None:
    found, error = log_ratio(risk(name, 4.0 ** exponent_of(name), 32), risk(name, 1.0, 8))
    assert abs(found) <= BIAS + 4 * error


def test_the_rule_of_the_other_adaptive_optimizers_gives_adagrad_twice_the_noise() -> None:
    found, error = log_ratio(risk("adagrad", 2.0, 32), risk("adagrad", 1.0, 8))
    assert abs(found - math.log(2)) <= BIAS + 4 * error

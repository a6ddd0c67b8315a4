"""Trainings whose answers can be computed: a noisy quadratic, a quadratic of known condition number, and a potential with two wells.

Each function is (seed, arguments) -> key -> number, and needs a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from noisescale.errors import check_choice
from noisescale.plans.quadratic import steady_risk
from noisescale.schedules import Constant, Cyclic, Schedule

__all__ = ["FUNCTIONS", "ill_conditioned", "noisy_quadratic", "two_wells"]

RATES = tuple(10 ** (exponent / 4) for exponent in range(-20, 21))
"""The rates among which `ill_conditioned` looks for the best of each optimizer: 1e-5 to 1e5, four to a decade."""


def noisy_quadratic(seed: int, *, lr: float, batch_size: float, curvature: float = 1.0, noise_variance: float = 1.0) -> dict[str, float]:
    """SGD on L = h theta^2 / 2, whose gradient has the noise variance c/B: the simulated steady risk and the exact one.

    `risk` is the mean of L over 20 000 independent walks, after as many updates as forget the start; `exact` is that of
    `plans.quadratic.steady_risk`.
    """
    random = np.random.default_rng(seed)
    decay = abs(1 - lr * curvature)
    updates = 1 if decay == 0 else math.ceil(math.log(1e-9) / math.log(decay)) if decay < 1 else 0
    theta = np.zeros(20_000)
    deviation = math.sqrt(noise_variance / batch_size)
    for _ in range(min(updates, 5000)):
        theta -= lr * (curvature * theta + deviation * random.standard_normal(theta.shape))
    exact = steady_risk(lr, curvature, noise_variance, batch_size)
    return {"risk": float(np.mean(curvature * theta**2 / 2)), "exact": exact}


def ill_conditioned(seed: int, *, optimizer: str, condition: float = 1000.0, updates: int = 100, dimensions: int = 10) -> dict[str, float]:
    """The lowest loss of an optimizer, over its rates, on L = 1/2 sum h_i theta_i^2 with h from 1/condition to 1, equally spaced in log h.

    The start is theta_i = +- 1/sqrt(h_i), so that every dimension has the same share of the loss, and there is no noise. `loss` is the last
    loss over the first, for the best of `RATES`, and `lr` is that rate.

    Args:
        optimizer: one of `OPTIMIZERS`.
    """
    import torch

    check_choice("optimizer", optimizer, OPTIMIZERS)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], dimensions)
    h = torch.logspace(-math.log10(condition), 0, dimensions, dtype=torch.float64)
    start = torch.tensor(signs, dtype=torch.float64) / h.sqrt()
    points = [start.clone().requires_grad_() for _ in RATES]
    steps = _optimizer(optimizer)([{"params": [point], "lr": rate} for point, rate in zip(points, RATES, strict=True)])
    for _ in range(updates):
        for point in points:
            point.grad = h * point.detach()
        steps.step()
    losses = [float((h * point.detach() ** 2).sum() / dimensions) for point in points]
    best = min(range(len(RATES)), key=lambda index: losses[index] if math.isfinite(losses[index]) else math.inf)
    return {"loss": max(losses[best], 1e-30), "lr": RATES[best]}


OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "rmsprop_nesterov", "adadelta", "adam")
"""The optimizers of `ill_conditioned`, with the settings of conf/optimizer but for the rate."""


def _optimizer(name: str) -> Callable[[Any], Any]:
    from functools import partial

    from torch import optim

    from noisescale.models.optimizers import RMSpropNesterov

    found: dict[str, Callable[[Any], Any]] = {
        "sgd": partial(optim.SGD, lr=0.1),
        "momentum": partial(optim.SGD, lr=0.1, momentum=0.9),
        "adagrad": partial(optim.Adagrad, lr=0.1),
        "rmsprop": partial(optim.RMSprop, lr=0.1),
        "rmsprop_nesterov": partial(RMSpropNesterov, lr=0.1, alpha=0.99, momentum=0.9),
        "adadelta": partial(optim.Adadelta, lr=1.0),
        "adam": partial(optim.Adam, lr=0.1),
    }
    return found[name]


def two_wells(seed: int, *, peak: float, cyclic: bool = True, updates: int = 400, walks: int = 400) -> dict[str, float]:
    """SGD from the bottom of a narrow, poor minimum beside a wide, good one: how often it ends in the good one.

    U(x) = min(h1 (x + 1)^2 / 2, h2 (x - 1)^2 / 2 - 1/2) with h1 = 16 and h2 = 1, and gradients with Gaussian noise of deviation 0.1. In a
    well of curvature h an update multiplies the distance from its bottom by 1 - a h, which grows beyond a = 2/h: a rate above 2/h1 = 0.125
    leaves the narrow well whatever the noise is, and one far below stays. `escaped` is the share of the walks that end in the good well.

    Args:
        peak: the largest rate, as a multiple of 2/h1; below 16, where the wide well would be left, too.
        cyclic: the rate rises from a tenth of 2/h1 to the peak and falls back, four times; otherwise it is constant at the peak.
    """
    edge, bottom = 2 / 16, 0.1
    random = np.random.default_rng(seed)
    schedule: Schedule = Cyclic(step_size_up=0.125, base_lr=bottom * edge, max_lr=peak * edge) if cyclic else Constant()
    x = np.full(walks, -1.0)
    for update in range(updates):
        rate = peak * edge * schedule(update / updates)
        narrow = 8 * (x + 1) ** 2 < (x - 1) ** 2 / 2 - 0.5
        gradient = np.where(narrow, 16 * (x + 1), x - 1)
        x = x - rate * (gradient + 0.1 * random.standard_normal(walks))
    return {"escaped": float(np.mean(8 * (x + 1) ** 2 >= (x - 1) ** 2 / 2 - 0.5))}


FUNCTIONS: Mapping[str, Callable[..., dict[str, float]]] = {
    "noisy_quadratic": noisy_quadratic,
    "ill_conditioned": ill_conditioned,
    "two_wells": two_wells,
}
"""What the arm of a claim may name in place of runs."""

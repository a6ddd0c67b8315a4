"""Trainings whose answers can be computed: the noisy quadratic, by `plans.quadratic` and by simulation, and a potential with two wells."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from noisescale.plans.quadratic import steady_risk

__all__ = ["FUNCTIONS", "quadratic_steady_risk"]


def quadratic_steady_risk(seed: int, *, lr: float, curvature: float, batch_size: float, noise_variance: float = 1.0) -> dict[str, float]:
    """The exact steady risk of SGD on the noisy quadratic, `risk`; the seed changes nothing."""
    return {"risk": steady_risk(lr, curvature, noise_variance, batch_size)}


FUNCTIONS: Mapping[str, Callable[..., dict[str, float]]] = {
    "quadratic_steady_risk": quadratic_steady_risk,
}
"""What the arm of a claim may name in place of runs: (seed, arguments of the arm) -> key -> number."""

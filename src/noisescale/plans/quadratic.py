"""The noisy quadratic model: where lr / k and B k are equivalent, in closed form. Plain numbers, standard library only.

L = 1/2 sum_i h_i theta_i^2; the gradient of dimension i is h_i theta_i + n_i, where n_i has mean 0 and variance c_i/B and is independent of
the past. The dimensions do not interact, so each function is about one of them; the loss is the sum over dimensions.

Names: a is lr; h is curvature; c is noise_variance, the variance of ONE example's gradient; B is batch_size, in examples; m is momentum in
PyTorch's form (buf = m buf + gradient; theta -= a buf). The updates are stable for 0 < a h < 2 (1 + m); other values are refused.

Source: Zhang et al. 1907.04164 for the model; the steady states with momentum and the gap are derived from its second moments.
"""

from __future__ import annotations

import math

from noisescale.errors import check_count, check_number

__all__ = ["duality_gap", "lr_for_gap", "momentum_amplification", "risk", "steady_risk"]


def risk(step: int, lr: float, curvature: float, noise_variance: float, batch_size: float, initial_risk: float) -> float:
    """E[L] after `step` updates of SGD: S + (L0 - S) (1 - a h)^(2 step), with S the steady and L0 the (expected) initial risk.

    Exact at every step and for any distribution of the noise. For a piecewise constant schedule, chain calls: each piece starts from the
    risk at the end of the one before.
    """
    check_count("step", step, at_least=0, unit="updates")
    check_number("initial_risk", initial_risk, at_least=0)
    steady, product = steady_risk(lr, curvature, noise_variance, batch_size), lr * curvature
    if step == 0 or product == 1.0:
        return float(steady if step else initial_risk)
    # Through logarithms, because for small a h the difference 1 - (1 - a h)^(2 step) would lose most of its digits.
    exponent = 2 * step * (math.log1p(-product) if product < 1.0 else math.log1p(product - 2.0))
    return initial_risk * math.exp(exponent) - steady * math.expm1(exponent)


def steady_risk(lr: float, curvature: float, noise_variance: float, batch_size: float, momentum: float = 0.0) -> float:
    """a c (1 + m) / (2 B (1 - m) (2 (1 + m) - a h)): E[L] after many updates; a c / (2 B (2 - a h)) without momentum."""
    check_number("noise_variance", noise_variance, at_least=0)
    check_number("batch_size", batch_size, above=0, unit="examples")
    margin = _margin(lr, curvature, momentum)
    return lr * noise_variance * (1.0 + momentum) / (2.0 * batch_size * (1.0 - momentum) * margin)


def momentum_amplification(lr: float, curvature: float, momentum: float) -> float:
    """(1 + m) (2 - a h) / ((1 - m) (2 (1 + m) - a h)): the steady risk with momentum m over that without, at the same lr; a h < 2.

    1/(1 - m), which `noise.with_momentum` uses, is its limit for small a h; at m = .9 it is 9.76 for a h = .1 and 6.79 for a h = 1.
    """
    without = _margin(lr, curvature)
    return (1.0 + momentum) * without / ((1.0 - momentum) * _margin(lr, curvature, momentum))


def duality_gap(lr: float, curvature: float, factor: float, momentum: float = 0.0) -> float:
    """(2 (1 + m) - a h/k) / (2 (1 + m) - a h): the steady risk of B k over that of a/k, for a factor k >= 1.

    A ratio of 1 would be equivalence. The ratio tends to 1 for small a h and diverges at the edge of stability, from which only the smaller
    learning rate moves away. Momentum at the same lr narrows the gap, to that of a h/(1 + m) without momentum.
    """
    check_number("factor", factor, at_least=1)
    margin = _margin(lr, curvature, momentum)
    return (2.0 * (1.0 + momentum) - lr * curvature / factor) / margin


def lr_for_gap(gap: float, curvature: float, factor: float, momentum: float = 0.0) -> float:
    """a = 2 (1 + m)/h (r - 1)/(r - 1/k): the learning rate at which the duality gap is r > 1; at lower ones the gap is smaller."""
    check_number("gap", gap, above=1)
    check_number("factor", factor, at_least=1)
    check_number("curvature", curvature, above=0)
    check_number("momentum", momentum, at_least=0, below=1)
    return 2.0 * (1.0 + momentum) / curvature * (gap - 1.0) / (gap - 1.0 / factor)


def _margin(lr: float, curvature: float, momentum: float = 0.0) -> float:
    """2 (1 + m) - a h > 0: how far a h is from the edge of stability."""
    check_number("lr", lr, above=0)
    check_number("curvature", curvature, above=0)
    check_number("momentum", momentum, at_least=0, below=1)
    edge = 2.0 * (1.0 + momentum)
    # Check the product instead of comparing lr with edge / curvature: for an lr just below that quotient the product can round to the edge.
    check_number("lr * curvature", lr * curvature, above=0, below=edge, remedy="from the upper bound on, the updates diverge")
    return edge - lr * curvature

"""The SGD noise scale, its two inverses, and the rules that scale lr with the batch size. Plain numbers, standard library only."""

from __future__ import annotations

import math

from noisescale.errors import check_choice, check_number

__all__ = [
    "LR_RULES",
    "NOISE_MATCHES",
    "NOISE_RULES",
    "batch_noise",
    "batch_size_for_noise",
    "batch_size_with",
    "dual_rule_of",
    "lr_for_noise",
    "lr_scaling",
    "noise_depends_on_batch",
    "noise_rule_is_measured",
    "noise_rule_of",
    "sgd_noise_scale",
    "with_momentum",
]

LR_RULES = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
"""Exponent p of lr ~ B^p."""

NOISE_RULES = {"sgd": 1.0, "adaptive": 0.5}
"""Exponent p of the noise lr n(B)^p: an adaptive optimizer divides its update by the size of the gradient, noise included."""

NOISE_MATCHES = ("exact", "ratio")
"""The two forms of n(B), see `batch_noise`."""


def sgd_noise_scale(lr: float, num_examples: int, batch_size: float, replacement: bool = False) -> float:
    """g = lr (N/B - 1), in units of the learning rate, and 0 for a full batch; with replacement g = lr N/B, which is lr for B = N.

    Up to a constant, the variance of the random force on the weights per unit of time, where lr is the time that an update takes. The size
    of the force goes as sqrt(g).
    The -1 is the finite-population correction for sampling WITHOUT replacement: Var(mean of B of N) ~ 1/B - 1/N. With replacement the
    variance is ~ 1/B, whatever N is, and B may exceed N; with unequal probabilities it is that of the weighted draw, and so is the
    gradient whose noise g scales. About lr N/B in both cases for B << N.
    Not to be confused with the gradient noise scale tr(Sigma)/|G|^2, which is measured and has the unit of examples.

    Args:
        lr: learning rate used with a MEAN loss.
        num_examples: N, the number of examples that one pass really draws from.
        batch_size: B, the examples of one update, over all micro-batches and devices.
        replacement: whether an example can come more than once in a batch.

    Source: Smith & Le 1710.06451; Smith, Kindermans, Ying & Le 1711.00489.
    """
    return lr * (num_examples if replacement else num_examples - batch_size) / batch_size


def batch_noise(match: str, num_examples: int, batch_size: float) -> float:
    """n(B) = N/B - 1 (exact) or N/B (ratio, its limit for B << N): the variance of a batch mean, in units of 1/N of one example's variance.

    exact is for batches drawn without replacement; with replacement, ratio is exact.
    SGD has the noise lr n(B): exact keeps g, ratio keeps lr/B. An adaptive optimizer divides its update by the size of the gradient, which
    is proportional to n(B)^(1/2) where noise dominates; its effective learning rate is lr n^(-1/2), and its noise lr n^(1/2). With ratio
    that keeps lr/sqrt(B), as do Malladi et al. 2205.10287 and Seesaw, 2510.14717. The -1 for adaptive optimizers is not from any paper: it
    matters only near B = N, where noise does not dominate the gradient anyway.
    """
    return (num_examples - batch_size) / batch_size if match == "exact" else num_examples / batch_size


def batch_size_with(match: str, num_examples: int, noise: float) -> float:
    """The B (not rounded) whose `batch_noise` is n = `noise` >= 0: N/(n + 1) (exact) or N/n (ratio; inf for n = 0)."""
    if match == "exact":
        return num_examples / (noise + 1.0)
    return num_examples / noise if noise > 0.0 else math.inf


def dual_rule_of(optimizer: str) -> str:
    """The rule by which a growing batch replaces the decaying rate of an optimizer, given by its class name; torch's AdamW counts as Adam.

    It is sgd, B = B0/s for B << N, for SGD and for Adam: trained so, Adam follows the decay of its rate within 2 to 11 % of the training
    loss, and B0/s^2, the rule of its noise, within 21 to 51 %; in test loss they hardly differ (results/dual_adam). Other adaptive
    optimizers were not trained so, and have the rule of their noise. Not to be confused with `noise_rule_of`, which is about a gradient
    that is mostly noise.
    """
    return "sgd" if optimizer.rpartition(".")[2] in ("SGD", "ASGD", "Adam", "AdamW") else noise_rule_of(optimizer)


def noise_rule_of(optimizer: str) -> str:
    """The rule of an optimizer's noise, given by its class name: sgd for torch's SGD and ASGD, with any momentum; adaptive for all others.

    Adagrad counts as adaptive, too, but no rule fits it: see `noise_depends_on_batch`.
    """
    return "sgd" if optimizer.rpartition(".")[2] in ("SGD", "ASGD") else "adaptive"


def noise_depends_on_batch(optimizer: str) -> bool:
    """Whether B changes the noise of an optimizer, given by its class name, at equal examples and learning rate: not that of Adagrad.

    Adagrad divides by the root of the SUM of all squared gradients. Where noise of variance c/B dominates, that sum is (E/B)(c/B) after E
    examples. The effective learning rate is then lr B/sqrt(E c), and the noise, that times c/B, is lr sqrt(c/E), whatever B is. An average
    in place of the sum, as in RMSProp and Adam, leaves the noise lr sqrt(c/B).
    """
    return optimizer.rpartition(".")[2] != "Adagrad"


def noise_rule_is_measured(optimizer: str) -> bool:
    """Whether the rule of an optimizer, given by its class name, was measured; for all others, adaptive is an assumption."""
    return optimizer.rpartition(".")[2] in _MEASURED


_MEASURED = ("SGD", "ASGD", "Adam", "AdamW", "RMSprop", "RMSpropNesterov", "Adadelta", "Adagrad")


def batch_size_for_noise(noise: float, lr: float, num_examples: int) -> float:
    """B = N / (1 + g/lr), in (0, N]: the batch size (not rounded) that gives noise g at learning rate lr, without replacement."""
    check_number("lr", lr, above=0)
    check_number("noise", noise, at_least=0)
    return num_examples / (1.0 + noise / lr)


def lr_for_noise(noise: float, num_examples: int, batch_size: float) -> float:
    """lr = g / (N/B - 1): the learning rate that gives noise g with batch size B < N, without replacement."""
    remedy = "a full batch has no noise at any learning rate"
    check_number("batch_size", batch_size, above=0, below=num_examples, unit="examples", remedy=remedy)
    return noise * batch_size / (num_examples - batch_size)


def with_momentum(noise: float, momentum: float) -> float:
    """g/(1 - m): the noise scale of SGD with momentum m in [0, 1).

    It is the limit for a small product of lr and curvature: on a quadratic with lr h = 1 and m = .9 the amplification is 6.8, not 10.
    Source: Smith et al. 1711.00489, section 2.
    """
    check_number("momentum", momentum, at_least=0, below=1)
    return noise / (1.0 - momentum)


def lr_scaling(rule: str, batch_size: float, reference_size: float) -> float:
    """(B / B_ref)^p with p = 0 (none), 1 (linear, Goyal et al. 1706.02677), 1/2 (sqrt, Hoffer et al. 1705.08741): a factor.

    linear keeps lr N/B; it does NOT keep g = lr (N/B - 1) when B is close to N.
    """
    check_choice("lr_rule", rule, LR_RULES)
    return float((batch_size / reference_size) ** LR_RULES[rule])

"""Options of schedules and of the warm-up that are refused, each named with its range or its choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from noisescale.errors import ConfigError
from noisescale.schedules import (
    WSD,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Step,
    Warmup,
)

NAN, INF = math.nan, math.inf
ABOVE_0, FROM_0, SHARE, CUT = "(0, inf)", "[0, inf)", "[0, 1]", "(0, 1]"
# schedule, the option, values out of its range, the range as printed
RANGES: list[tuple[Callable[..., object], str, list[Any], str]] = [
    (partial(Step, gamma=0.5), "step_size", [0, -1, NAN, INF, "5", True, None], f"{ABOVE_0}, in epochs"),
    (partial(Step, 5), "gamma", [0, 1.1, -0.5, NAN], CUT),
    (partial(MultiStep, [1]), "gamma", [0, 1.1], CUT),
    (Inverse, "gamma", [-0.1, INF], f"{FROM_0}, in 1/epochs"),
    (Exponential, "gamma", [0, 1.1], CUT),
    (Exponential, "rate", [-0.1], f"{FROM_0}, in 1/epochs"),
    (Polynomial, "power", [0, -1], ABOVE_0),
    (partial(Polynomial, 1), "total_iters", [0, -1], f"{ABOVE_0}, in epochs"),
    (partial(Linear, end_factor=0), "start_factor", [0, -1], ABOVE_0),
    (partial(Linear, 1), "end_factor", [-0.1], FROM_0),
    (partial(Linear, 1, 0), "total_iters", [0], f"{ABOVE_0}, in epochs"),
    (Cosine, "T_max", [0, -150], f"{ABOVE_0}, in epochs"),
    (partial(Cosine, lr=0.1), "eta_min", [-0.1, 0.2], "[0, 0.1]"),
    (Cosine, "lr", [0], ABOVE_0),
    (CosineRestarts, "T_0", [0], f"{ABOVE_0}, in epochs"),
    (partial(CosineRestarts, 1), "T_mult", [0.9, 0], "[1, inf)"),
    (partial(CosineRestarts, 1, lr=0.1), "eta_min", [0.2], "[0, 0.1]"),
    (Cyclic, "step_size_up", [0], f"{ABOVE_0}, in epochs"),
    (partial(Cyclic, 1), "step_size_down", [0], f"{ABOVE_0}, in epochs"),
    (partial(Cyclic, 1), "gamma", [0, 1.1], CUT),
    (partial(Cyclic, 1), "max_lr", [0], ABOVE_0),
    (partial(Cyclic, 1, max_lr=0.5), "base_lr", [-1, 0.6], "[0, 0.5]"),
    (OneCycle, "epochs", [0], f"{ABOVE_0}, in epochs"),
    (OneCycle, "pct_start", [0, 1], "(0, 1)"),
    (OneCycle, "div_factor", [0.5], "[1, inf)"),
    (OneCycle, "final_div_factor", [0.5], "[1, inf)"),
    (WSD, "decay_fraction", [0, 1.5], CUT),
    (partial(WSD, 0.2), "end_factor", [-0.1, 1.1], SHARE),
    (partial(WSD, 0.2), "epochs", [0], f"{ABOVE_0}, in epochs"),
    (Warmup, "epochs", [-1, None], f"{FROM_0}, in epochs"),
    (partial(Warmup, 1), "start_factor", [0, 1.1], CUT),
]


@pytest.mark.parametrize(
    ("make", "key", "value", "valid"),
    [pytest.param(make, key, value, valid, id=f"{key}={value}") for make, key, values, valid in RANGES for value in values],
)
def test_a_value_out_of_range_is_named_with_its_range(make: Callable[..., object], key: str, value: Any, valid: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make(**{key: value})
    assert str(refusal.value).split("; ")[0] == f"{key}={value}: must be a finite number in {valid}"


@pytest.mark.parametrize(
    ("make", "key", "choices"),
    [
        (partial(Cyclic, 1), "mode", "triangular, triangular2, exp_range"),
        (OneCycle, "anneal_strategy", "cos, linear"),
        (partial(WSD, 0.2), "shape", "linear, cosine, sqrt"),
        (partial(Warmup, 1), "shape", "linear, constant"),
        (partial(Warmup, 1), "mode", "overlap, shift"),
    ],
)
def test_an_unknown_choice_is_named_with_the_known_ones(make: Callable[..., object], key: str, choices: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make(**{key: "typo"})
    assert str(refusal.value) == f"{key}=typo: must be one of {choices}"


@pytest.mark.parametrize("both_or_neither", [{}, {"gamma": 0.9, "rate": 0.1}])
def test_an_exponential_needs_exactly_one_of_gamma_and_rate(both_or_neither: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"^gamma=(null|0\.9): exactly one of gamma .* and rate .* must be given"):
        Exponential(**both_or_neither)


@pytest.mark.parametrize("milestones", [[10, 10], [15, 10], [0, 1], [-1], [1, NAN], 10, "10", [1, "2"]])
def test_milestones_must_increase(milestones: Any) -> None:
    with pytest.raises(ConfigError, match=r"^milestones="):
        MultiStep(milestones, 0.1)

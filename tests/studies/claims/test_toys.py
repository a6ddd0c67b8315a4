"""The toys against their closed forms."""

from __future__ import annotations

import pytest

from noisescale.errors import ConfigError
from noisescale.plans.quadratic import duality_gap
from noisescale.studies.claims.toys import OPTIMIZERS, ill_conditioned, noisy_quadratic, two_wells


@pytest.mark.parametrize(("lr", "batch_size"), [(0.1, 5), (0.5, 1), (1.5, 1)])
def test_a_simulated_risk_is_the_exact_one(lr: float, batch_size: float) -> None:
    found = noisy_quadratic(3, lr=lr, batch_size=batch_size)
    assert found["risk"] == pytest.approx(found["exact"], rel=0.05)  # 5 standard errors of 20 000 squares


def test_the_two_ways_to_lower_noise_differ_by_the_gap() -> None:
    batch, rate = noisy_quadratic(0, lr=1.5, batch_size=50), noisy_quadratic(1, lr=0.3, batch_size=10)
    assert batch["risk"] / rate["risk"] == pytest.approx(duality_gap(1.5, 1.0, 5), rel=0.07)


def test_gradient_descent_at_its_best_rate_is_the_one_of_theory() -> None:
    """On h from 1/k to 1 the best rate is just below 2, and the loss falls at least as ((k - 1)/(k + 1))^(2 t) in every dimension."""
    found = ill_conditioned(0, optimizer="sgd", condition=10, updates=20)
    assert 1.3 < found["lr"] < 2
    assert found["loss"] < (0.9 - 0.1) ** 2
    assert ill_conditioned(5, optimizer="sgd", condition=10, updates=20) == pytest.approx(found)


def test_a_rate_per_parameter_helps_only_where_curvatures_differ() -> None:
    assert ill_conditioned(0, optimizer="adagrad")["loss"] < 1e-6 < ill_conditioned(0, optimizer="sgd")["loss"]
    flat = {"condition": 1.0001, "updates": 30}
    assert ill_conditioned(0, optimizer="adam", **flat)["loss"] > ill_conditioned(0, optimizer="sgd", **flat)["loss"]  # type: ignore[arg-type]


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(OPTIMIZERS)}"):
        ill_conditioned(0, optimizer="guess")


@pytest.mark.parametrize(("peak", "cyclic", "escaped"), [(0.1, False, 0), (0.8, True, 0), (2, True, 1), (2, False, 1)])
def test_a_rate_above_the_edge_leaves_the_narrow_well(peak: float, cyclic: bool, escaped: float) -> None:
    assert two_wells(1, peak=peak, cyclic=cyclic, walks=50)["escaped"] == escaped

"""The SGD noise scale, compared with exact fractions and with an enumeration of all batches; and its inverses, compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.plans.noise import (
    LR_RULES,
    batch_noise,
    batch_size_for_noise,
    dual_rule_of,
    lr_for_noise,
    lr_scaling,
    noise_rule_of,
    sgd_noise_scale,
    with_momentum,
)

many = settings(max_examples=300)

rates = st.floats(1e-6, 100.0)
populations = st.integers(2, 10**7)


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, int]:
    """(N, B) with 1 <= B < N."""
    n = draw(populations)
    return n, draw(st.integers(1, n - 1))


@many
@given(lr=rates, case=batches())
def test_g_is_lr_times_n_over_b_minus_one(lr: float, case: tuple[int, int]) -> None:
    n, b = case
    assert sgd_noise_scale(lr, n, b) == pytest.approx(float(Fraction(lr) * (Fraction(n, b) - 1)), rel=1e-14)


@pytest.mark.parametrize(
    ("lr", "n", "b", "g"),
    [
        (0.1, 50_000, 128, 38.9625),  # Smith et al. 1711.00489, section 5.1, without momentum
        (0.1, 50_000, 25_000, 0.1),
        (0.5, 10, 1, 4.5),
    ],
)
def test_g_by_hand(lr: float, n: int, b: int, g: float) -> None:
    assert sgd_noise_scale(lr, n, b) == pytest.approx(g, rel=1e-12)


@given(lr=rates, n=populations)
def test_a_full_batch_has_no_noise(lr: float, n: int) -> None:
    assert sgd_noise_scale(lr, n, n) == 0.0
    assert batch_size_for_noise(0.0, lr, n) == n


@pytest.mark.parametrize("population", [[3, 1, 4, 1, 5, 9], [0, 0, 0, 0, 0, 7], [-2, 7, 1, 8, -2, 8, 1]])
def test_the_minus_one_is_the_variance_of_a_batch_drawn_without_replacement(population: list[int]) -> None:
    """Var(mean of B of N) = S2 (1/B - 1/N), exactly, over ALL batches. So lr N Var / S2 is g."""
    n = len(population)
    mean = Fraction(sum(population), n)
    s2 = sum((x - mean) ** 2 for x in population) / (n - 1)
    for b in range(1, n + 1):
        means = [Fraction(sum(batch), b) for batch in combinations(population, b)]
        variance = sum((m - mean) ** 2 for m in means) / len(means)
        assert variance == s2 * (Fraction(1, b) - Fraction(1, n))
        assert sgd_noise_scale(0.1, n, b) == pytest.approx(float(Fraction(1, 10) * n * variance / s2), rel=1e-14)


@many
@given(lr=rates, case=batches())
def test_the_inverses_invert(lr: float, case: tuple[int, int]) -> None:
    n, b = case
    noise = sgd_noise_scale(lr, n, b)
    assert batch_size_for_noise(noise, lr, n) == pytest.approx(b, rel=1e-12)
    assert lr_for_noise(noise, n, b) == pytest.approx(lr, rel=1e-12)


@many
@given(lr=rates, n=populations, noise=st.floats(0.0, 1e6))
def test_any_noise_has_a_batch_and_it_gives_that_noise(lr: float, n: int, noise: float) -> None:
    b = batch_size_for_noise(noise, lr, n)
    assert 0 < b <= n
    # Near b = n, g depends on the small difference n - b, which is exact only to a rounding error of n.
    assert sgd_noise_scale(lr, n, b) == pytest.approx(noise, rel=1e-9, abs=1e-15 * lr * n)


@many
@given(lr=rates, case=batches())
def test_n_of_b_is_g_over_the_rate_or_its_limit_for_small_batches(lr: float, case: tuple[int, int]) -> None:
    n, b = case
    assert lr * batch_noise("exact", n, b) == pytest.approx(sgd_noise_scale(lr, n, b), rel=1e-14)
    assert batch_noise("ratio", n, b) == pytest.approx(float(Fraction(n, b)), rel=1e-15)
    assert batch_noise("exact", n, n) == 0.0 < batch_noise("ratio", n, n) == 1.0


@pytest.mark.parametrize("name", ["SGD", "ASGD", "torch.optim.SGD", "torch.optim.asgd.ASGD"])
def test_the_rule_of_sgd(name: str) -> None:
    assert noise_rule_of(name) == "sgd"


@pytest.mark.parametrize("name", ["Adam", "torch.optim.AdamW", "RMSprop", "Adagrad", "Adadelta", "mine.SGDish", "SGD.Adam", ""])
def test_the_rule_of_all_others(name: str) -> None:
    assert noise_rule_of(name) == "adaptive"


@pytest.mark.parametrize(
    ("name", "rule"),
    [("SGD", "sgd"), ("ASGD", "sgd"), ("Adam", "sgd"), ("torch.optim.AdamW", "sgd"), ("RMSprop", "adaptive"), ("NAdam", "adaptive")],
)
def test_the_rule_by_which_a_batch_replaces_a_rate(name: str, rule: str) -> None:
    """That of Adam is what was measured (the claim dual_adam), and not that of its noise."""
    assert dual_rule_of(name) == rule


@pytest.mark.parametrize(("cut", "size"), [(5, 634), (25, 3015), (125, 12145)])
def test_the_dual_of_a_cut_is_not_the_ratio(cut: int, size: int) -> None:
    """N = 50 000, B0 = 128: exact g gives 634, 3015, 12145; the ratio rule would give 640, 3200, 16000."""
    assert round(batch_size_for_noise(sgd_noise_scale(0.1, 50_000, 128) / cut, 0.1, 50_000)) == size


@pytest.mark.parametrize(("momentum", "amplified"), [(0.0, 1.0), (0.5, 2.0), (0.9, 10.0), (0.98, 50.0)])
def test_momentum_divides_by_one_minus_m(momentum: float, amplified: float) -> None:
    assert with_momentum(3.0, momentum) == pytest.approx(3.0 * amplified, rel=1e-12)


@pytest.mark.parametrize(("rule", "growth"), [("none", 1.0), ("linear", 16.0), ("sqrt", 4.0)])
def test_a_batch_16_times_the_reference_scales_the_rate(rule: str, growth: float) -> None:
    assert lr_scaling(rule, 2048, 128) == pytest.approx(growth, rel=1e-12)
    assert lr_scaling(rule, 128, 2048) == pytest.approx(1 / growth, rel=1e-12)
    assert lr_scaling(rule, 128, 128) == 1.0


@many
@given(sizes=st.tuples(*[st.integers(1, 10**6)] * 3), rule=st.sampled_from(sorted(LR_RULES)))
def test_scaling_composes(sizes: tuple[int, int, int], rule: str) -> None:
    a, b, c = sizes
    assert lr_scaling(rule, a, b) * lr_scaling(rule, b, c) == pytest.approx(lr_scaling(rule, a, c), rel=1e-12)


@given(lr=rates, case=batches())
def test_the_linear_rule_keeps_lr_over_b_and_not_g(lr: float, case: tuple[int, int]) -> None:
    n, b = case
    scaled = lr * lr_scaling("linear", n, b)
    assert scaled / n == pytest.approx(lr / b, rel=1e-12)
    assert sgd_noise_scale(scaled, n, n) == 0.0 < sgd_noise_scale(lr, n, b)


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (lambda: batch_size_for_noise(1.0, 0.0, 10), "lr=0.0: must be a finite number in (0, inf)"),
        (lambda: batch_size_for_noise(-1.0, 0.1, 10), "noise=-1.0: must be a finite number in [0, inf)"),
        (lambda: batch_size_for_noise(math.nan, 0.1, 10), "noise=nan: must be a finite number in [0, inf)"),
        (
            lambda: lr_for_noise(1.0, 1_281_167, 1_281_167),
            "batch_size=1281167: must be a finite number in (0, 1281167), in examples; a full batch has no noise at any learning rate",
        ),
        (
            lambda: lr_for_noise(1.0, 10, 0),
            "batch_size=0: must be a finite number in (0, 10), in examples; a full batch has no noise at any learning rate",
        ),
        (lambda: with_momentum(1.0, 1.0), "momentum=1.0: must be a finite number in [0, 1)"),
        (lambda: with_momentum(1.0, -0.1), "momentum=-0.1: must be a finite number in [0, 1)"),
        (lambda: lr_scaling("cubic", 1, 1), "lr_rule=cubic: must be one of none, linear, sqrt"),
    ],
)
def test_refusals(refused: Callable[[], float], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        refused()
    assert str(refusal.value) == line

"""The noisy quadratic model, compared with its second moments in exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.plans.noise import with_momentum
from noisescale.plans.quadratic import duality_gap, lr_for_gap, momentum_amplification, risk, steady_risk

many = settings(max_examples=300)

curvatures = st.floats(1e-3, 1e3)
momenta = st.floats(0.0, 0.99)
factors = st.floats(1.0, 1e3)
variances = st.floats(1e-3, 1e3)
sizes = st.integers(1, 10**5)
of_the_edge = st.floats(1e-6, 0.999)  # lr * curvature over 2 (1 + m)
CLOSE = 1e-11  # relative error of floats: up to 3 digits of 2 (1 + m) - a h cancel

Moments = tuple[Fraction, Fraction, Fraction]


# --- An independent computation (the twin): E[theta^2], E[theta buf], E[buf^2] of the two linear updates, without rounding.


def after_one_update(moments: Moments, lr: float, curvature: float, variance: Fraction, momentum: float) -> Moments:
    """The moments after buf' = m buf + h theta + n and theta' = theta - a buf', where n is independent of theta and buf."""
    a, h, m = Fraction(lr), Fraction(curvature), Fraction(momentum)
    tt, tb, bb = moments

    def mean(x: tuple[Fraction, Fraction, Fraction], y: tuple[Fraction, Fraction, Fraction]) -> Fraction:
        """E[(x0 theta + x1 buf + x2 n)(y0 theta + y1 buf + y2 n)]."""
        return x[0] * y[0] * tt + (x[0] * y[1] + x[1] * y[0]) * tb + x[1] * y[1] * bb + x[2] * y[2] * variance

    buf = (h, m, Fraction(1))
    theta = (1 - a * h, -a * m, -a)
    return mean(theta, theta), mean(theta, buf), mean(buf, buf)


def stationary(lr: float, curvature: float, variance: Fraction, momentum: float) -> Moments:
    """The moments that an update does not change. The update is x -> A x + b, so they are x = (1 - A)^-1 b, by Cramer's rule."""
    zero, one = Fraction(0), Fraction(1)
    b = after_one_update((zero, zero, zero), lr, curvature, variance, momentum)
    units: list[Moments] = [(one, zero, zero), (zero, one, zero), (zero, zero, one)]
    columns = [after_one_update(unit, lr, curvature, zero, momentum) for unit in units]
    left = [[(i == j) - columns[j][i] for j in range(3)] for i in range(3)]

    def determinant(x: list[list[Fraction]]) -> Fraction:
        return sum((x[0][i] * (x[1][i - 2] * x[2][i - 1] - x[1][i - 1] * x[2][i - 2]) for i in range(3)), Fraction(0))

    replaced = [[[b[i] if j == k else left[i][j] for j in range(3)] for i in range(3)] for k in range(3)]
    x, y, z = (determinant(matrix) / determinant(left) for matrix in replaced)
    return x, y, z


def exact_steady_risk(lr: float, curvature: float, noise_variance: float, batch_size: int, momentum: float) -> Fraction:
    return Fraction(curvature) / 2 * stationary(lr, curvature, Fraction(noise_variance) / batch_size, momentum)[0]


@many
@given(share=of_the_edge, h=curvatures, m=momenta)
def test_the_twin_stands_still_where_it_says(share: float, h: float, m: float) -> None:
    lr = share * 2 * (1 + m) / h
    moments = stationary(lr, h, Fraction(1, 7), m)
    assert after_one_update(moments, lr, h, Fraction(1, 7), m) == moments


@many
@given(share=of_the_edge, h=curvatures, m=momenta, c=variances, b=sizes)
def test_the_steady_risk_is_the_twins(share: float, h: float, m: float, c: float, b: int) -> None:
    lr = share * 2 * (1 + m) / h
    assert steady_risk(lr, h, c, b, m) == pytest.approx(float(exact_steady_risk(lr, h, c, b, m)), rel=CLOSE)


@settings(max_examples=100)
@given(step=st.integers(0, 40), share=of_the_edge, h=curvatures, c=variances, b=sizes, theta=st.floats(-100.0, 100.0))
def test_the_risk_is_the_twins_after_every_update(step: int, share: float, h: float, c: float, b: int, theta: float) -> None:
    lr = share * 2 / h
    moments = Fraction(theta) ** 2, Fraction(0), Fraction(0)
    for _ in range(step):
        moments = after_one_update(moments, lr, h, Fraction(c) / b, 0.0)
    initial = 0.5 * h * theta**2
    scale = initial + steady_risk(lr, h, c, b)
    assert risk(step, lr, h, c, b, initial) == pytest.approx(float(Fraction(h) / 2 * moments[0]), rel=CLOSE, abs=1e-13 * scale)


@many
@given(share=of_the_edge, h=curvatures, m=momenta)
def test_the_amplification_is_the_twins(share: float, h: float, m: float) -> None:
    lr = share * 2 / h
    expected = exact_steady_risk(lr, h, 1.0, 1, m) / exact_steady_risk(lr, h, 1.0, 1, 0.0)
    assert momentum_amplification(lr, h, m) == pytest.approx(float(expected), rel=CLOSE)


@many
@given(share=of_the_edge, h=curvatures, m=momenta, k=st.integers(1, 1000))
def test_the_gap_is_the_twins(share: float, h: float, m: float, k: int) -> None:
    lr = share * 2 * (1 + m) / h
    expected = exact_steady_risk(lr, h, 1.0, k, m) / exact_steady_risk(lr / k, h, 1.0, 1, m)
    assert duality_gap(lr, h, k, m) == pytest.approx(float(expected), rel=CLOSE)


# --- Consequences of the formulas.


@given(share=of_the_edge, h=curvatures, m=momenta)
def test_a_run_is_stable_below_the_edge_and_not_at_it(share: float, h: float, m: float) -> None:
    """The eigenvalues of (theta, buf) -> (theta', buf') are inside the unit circle for a h < 2 (1 + m); at a h = 2 (1 + m) one is -1."""

    def largest(lr: float) -> float:
        update = np.array([[1 - lr * h, -lr * m], [h, m]])
        return float(abs(np.linalg.eigvals(update)).max())

    edge = 2 * (1 + m) / h
    assert largest(share * edge) < 1.0
    assert largest(edge) == pytest.approx(1.0, rel=1e-6)
    assert largest(1.001 * edge) > 1.0


@given(
    share=of_the_edge, h=curvatures, c=variances, b=sizes, initial=st.floats(0.0, 1e3), first=st.integers(0, 50), then=st.integers(0, 50)
)
@example(share=1e-6, h=1.0, c=3.0, b=1, initial=0.0, first=1, then=1)
def test_pieces_chain(share: float, h: float, c: float, b: int, initial: float, first: int, then: int) -> None:
    lr = share * 2 / h
    chained = risk(then, lr, h, c, b, risk(first, lr, h, c, b, initial))
    assert chained == pytest.approx(risk(first + then, lr, h, c, b, initial), rel=CLOSE, abs=1e-13 * initial)
    assert risk(0, lr, h, c, b, initial) == pytest.approx(initial, rel=CLOSE, abs=1e-13 * steady_risk(lr, h, c, b))


@pytest.mark.parametrize(("lr_h", "amplified"), [(5e-4, 9.9988), (0.1, 9.757), (1.0, 6.786)])
def test_momentum_amplifies_by_less_than_one_over_one_minus_m(lr_h: float, amplified: float) -> None:
    assert momentum_amplification(lr_h, 1.0, 0.9) == pytest.approx(amplified, rel=1e-4)
    assert momentum_amplification(lr_h, 1.0, 0.0) == 1.0


@given(h=curvatures, m=momenta)
def test_for_small_rates_the_amplification_is_the_noise_scales(h: float, m: float) -> None:
    assert momentum_amplification(1e-9 / h, h, m) == pytest.approx(with_momentum(1.0, m), rel=1e-8)


@pytest.mark.parametrize(("lr_h", "printed"), [(0.01, "1.004"), (0.1, "1.042"), (0.5, "1.27"), (1.0, "1.8"), (1.5, "3.4")])
def test_the_gap_by_hand(lr_h: float, printed: str) -> None:
    digits = len(printed.partition(".")[2])
    assert f"{duality_gap(lr_h / 8, 8.0, 5):.{digits}f}" == printed


@many
@given(share=of_the_edge, h=curvatures, m=momenta, k=factors)
def test_momentum_widens_the_range_of_the_gap_by_one_plus_m(share: float, h: float, m: float, k: float) -> None:
    lr = share * 2 / h
    assert duality_gap(lr * (1 + m), h, k, m) == pytest.approx(duality_gap(lr, h, k), rel=CLOSE)


@many
@given(gap=st.floats(1.001, 100.0), h=curvatures, m=momenta, k=st.floats(1.1, 1e3))
def test_the_rate_for_a_gap_has_that_gap(gap: float, h: float, m: float, k: float) -> None:
    lr = lr_for_gap(gap, h, k, m)
    assert duality_gap(lr, h, k, m) == pytest.approx(gap, rel=1e-9)
    assert duality_gap(0.99 * lr, h, k, m) < gap


def test_no_factor_no_gap() -> None:
    assert duality_gap(1.9, 1.0, 1) == 1.0


# --- Refusals.


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (lambda: steady_risk(0.0, 1.0, 1.0, 1), "lr=0.0: must be a finite number in (0, inf)"),
        (lambda: steady_risk(0.1, -1.0, 1.0, 1), "curvature=-1.0: must be a finite number in (0, inf)"),
        (lambda: steady_risk(0.1, 1.0, -1.0, 1), "noise_variance=-1.0: must be a finite number in [0, inf)"),
        (lambda: steady_risk(0.1, 1.0, 1.0, 0), "batch_size=0: must be a finite number in (0, inf), in examples"),
        (lambda: steady_risk(0.1, 1.0, 1.0, 1, 1.0), "momentum=1.0: must be a finite number in [0, 1)"),
        (
            lambda: steady_risk(0.5, 4.0, 1.0, 1),
            "lr * curvature=2.0: must be a finite number in (0, 2); from the upper bound on, the updates diverge",
        ),
        (
            lambda: steady_risk(1.0, 4.0, 1.0, 1, 0.9),
            "lr * curvature=4.0: must be a finite number in (0, 3.8); from the upper bound on, the updates diverge",
        ),
        (
            lambda: steady_risk(math.nextafter(30.0, 0.0), 0.1, 1.0, 1, 0.5),  # below 3 / 0.1, but times 0.1 it rounds to 3
            "lr * curvature=3.0: must be a finite number in (0, 3); from the upper bound on, the updates diverge",
        ),
        (
            lambda: momentum_amplification(3.0, 1.0, 0.9),  # stable with momentum, not without
            "lr * curvature=3.0: must be a finite number in (0, 2); from the upper bound on, the updates diverge",
        ),
        (
            lambda: duality_gap(2.5, 1.0, 5),
            "lr * curvature=2.5: must be a finite number in (0, 2); from the upper bound on, the updates diverge",
        ),
        (lambda: duality_gap(0.1, 1.0, 0.5), "factor=0.5: must be a finite number in [1, inf)"),
        (lambda: lr_for_gap(1.0, 1.0, 5), "gap=1.0: must be a finite number in (1, inf)"),
        (lambda: lr_for_gap(math.nan, 1.0, 5), "gap=nan: must be a finite number in (1, inf)"),
        (lambda: lr_for_gap(1.1, 0.0, 5), "curvature=0.0: must be a finite number in (0, inf)"),
        (lambda: lr_for_gap(1.1, 1.0, 0.9), "factor=0.9: must be a finite number in [1, inf)"),
        (lambda: lr_for_gap(1.1, 1.0, 5, -0.1), "momentum=-0.1: must be a finite number in [0, 1)"),
        (lambda: risk(-1, 0.1, 1.0, 1.0, 1, 1.0), "step=-1: must be a whole number of updates, at least 0"),
        (lambda: risk(1, 0.1, 1.0, 1.0, 1, -1.0), "initial_risk=-1.0: must be a finite number in [0, inf)"),
        (
            lambda: risk(1, 2.0, 1.0, 1.0, 1, 1.0),
            "lr * curvature=2.0: must be a finite number in (0, 2); from the upper bound on, the updates diverge",
        ),
    ],
)
def test_refusals(refused: Callable[[], float], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        refused()
    assert str(refusal.value) == line

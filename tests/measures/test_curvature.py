"""The curvature estimators on functions whose curvature has a closed form, and against the whole Hessian of a small network."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from noisescale.errors import ConfigError
from noisescale.measures.curvature import batch_sharpness, keskar_phi, largest_eigenvalue, random_directions
from noisescale.measures.loss_surface import LossSurface
from tests.helpers.regression import Regression, network

Loss = Callable[[Tensor], tuple[float, Tensor]]


def quadratic(matrix: Tensor, offset: float = 0.0, center: Tensor | None = None) -> Loss:
    """f(x) = offset + 1/2 (x - center) A (x - center)."""

    def f(x: Tensor) -> tuple[float, Tensor]:
        d = x if center is None else x - center
        return offset + 0.5 * float(d @ matrix @ d), matrix @ d

    return f


def spectrum(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, and random eigenvectors."""
    n = len(values)
    basis: Tensor = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    return basis @ torch.diag(values.double()) @ basis.T


# -- lambda_max ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 20, 21, 60])
def test_the_largest_eigenvalue_of_a_matrix_is_found_to_the_tolerance(size: int) -> None:
    values = torch.linspace(-5.0, 3.0, size)  # the largest in size is -5
    matrix = spectrum(values)
    for tolerance in (1e-2, 1e-6):
        found = largest_eigenvalue(lambda v: matrix @ v, size, tolerance=tolerance)
        assert found.residual <= tolerance * (1 + 1e-6)
        assert abs(found.value - float(values[-1])) <= tolerance * abs(found.value)


@pytest.mark.parametrize("value", [3.0, 0.0, -2.0, 1e-9, 1e9])
def test_a_multiple_of_the_identity(value: float) -> None:
    found = largest_eigenvalue(lambda v: value * v, 50)
    assert found.value == pytest.approx(value, rel=1e-12, abs=0)


def test_what_cannot_be_found_is_nan() -> None:
    matrix = spectrum(torch.linspace(0.99999, 1.0, 400))
    assert math.isnan(largest_eigenvalue(lambda v: matrix @ v, 400, tolerance=1e-12, most_products=40).value)
    for size in (3, 50):
        assert math.isnan(largest_eigenvalue(lambda v: v * math.nan, size).value)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1.95), st.floats(0.1, 50))
def test_gradient_descent_on_a_quadratic_diverges_if_and_only_if_lr_lambda_max_is_above_2(product: float, largest: float) -> None:
    """The theorem that lambda_max stands for; at lr lambda_max = 2 exactly it neither grows nor shrinks."""
    matrix = spectrum(torch.linspace(0.01, 1.0, 30) * largest)
    found = largest_eigenvalue(lambda v: matrix @ v, 30, tolerance=1e-9).value
    for factor, diverges in ((product, False), (4.0 - product, True)):  # on either side of 2
        x = torch.ones(30, dtype=torch.float64)
        lr = factor / found
        power = matrix.matrix_power(0) - lr * matrix
        first, last = (float((torch.linalg.matrix_power(power, k) @ x).norm()) for k in (20_000, 40_000))
        assert (last > first or math.isinf(last) or math.isnan(last)) == diverges


def surface_of(net: torch.nn.Module, chunks: int = 4) -> LossSurface:
    """The mean squared error of the regression, as chunks of unequal sizes."""
    data = Regression()
    cuts = torch.tensor_split(torch.arange(len(data)), [5, 40, 41][: chunks - 1])
    batches = [(float(len(cut)), (data.x[cut], data.y[cut])) for cut in cuts]
    return LossSurface(lambda batch: F.mse_loss(net(batch[0]), batch[1]), list(net.parameters()), batches)


def whole_hessian(net: torch.nn.Module) -> Tensor:
    """The Hessian of the same loss over all examples at once, by another way of computing it."""
    data, names = Regression(), [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]

    def f(x: Tensor) -> Tensor:
        parts = x.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.mse_loss(functional_call(net, values, data.x), data.y)

    found = hessian(f, torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert isinstance(found, Tensor)
    return found


def test_of_a_network_it_is_the_largest_eigenvalue_of_the_whole_hessian() -> None:
    net = network()
    surface = surface_of(net)
    exact = torch.linalg.eigvalsh(whole_hessian(net))
    found = largest_eigenvalue(surface.product, surface.size, tolerance=1e-6)
    assert found.value == pytest.approx(float(exact[-1]), rel=1e-6)
    assert found.products < surface.size


def test_a_hessian_vector_product_is_that_of_the_whole_hessian() -> None:
    net = network()
    v = torch.randn(surface_of(net).size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(surface_of(net).product(v), whole_hessian(net) @ v, rtol=1e-9, atol=1e-12)


def test_parameters_without_a_gradient_and_linear_ones_have_no_curvature() -> None:
    used, unused = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    surface = LossSurface(lambda batch: (batch * used).sum(), [used, unused], [(1.0, torch.arange(3.0).double())])
    assert surface.loss_and_gradient()[1].tolist() == [0, 1, 2, 0, 0, 0]
    assert not surface.product(torch.ones(6, dtype=torch.float64)).any()
    assert largest_eigenvalue(surface.product, 6).value == 0.0


def test_a_look_elsewhere_leaves_the_weights_as_they_were() -> None:
    net = network()
    surface, before = surface_of(net), [p.detach().clone() for p in net.parameters()]
    there = surface.loss_and_gradient(surface.point() + 1.0)
    assert there[0] != surface.loss()
    assert surface.loss(surface.point() + 1.0) == pytest.approx(there[0], rel=1e-12)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(net.parameters(), before, strict=True))


# -- phi -----------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40),
    st.sampled_from([1e-3, 5e-4, 0.1]),
    st.floats(0, 10),
    st.integers(0, 99),
)
def test_phi_of_an_exact_quadratic(curvatures: list[float], radius: float, offset: float, seed: int) -> None:
    """At the minimum of 1/2 sum h_i (x_i - c_i)^2 the maximum is at a corner of the box: 1/2 sum h_i radius^2 (|c_i| + 1)^2."""
    h = torch.tensor(curvatures, dtype=torch.float64)
    x = torch.randn(len(h), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    corner = 0.5 * float((h * (radius * (x.abs() + 1)) ** 2).sum())
    found = keskar_phi(quadratic(torch.diag(h), offset, x), x, radius, seed=seed)
    assert found == pytest.approx(100 * corner / (1 + offset), rel=1e-9)


@pytest.mark.parametrize("slope", [1e-8, 1.0, 1e8])
def test_phi_of_a_linear_function_is_reached_whatever_its_unit(slope: float) -> None:
    gradient = slope * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x = torch.tensor([0.0, 1.0, -4.0], dtype=torch.float64)
    found = keskar_phi(lambda y: (1.0 + float(gradient @ (y - x)), gradient), x, 1e-2)
    assert found == pytest.approx(100 * 1e-2 * slope * (1 + 2 * 2 + 3 * 5) / 2, rel=1e-6)


def test_phi_in_a_subspace_is_that_of_the_function_on_it() -> None:
    """With p = n and an orthogonal A, C is the box around the rotated weights; the quadratic is diagonal there."""
    h = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    basis, _ = torch.linalg.qr(random_directions(4, 4, seed=3).double())
    x = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    f = quadratic(basis @ torch.diag(h) @ basis.T, 2.0, x)
    inside = 1e-3 * ((basis.T @ x).abs() + 1)
    assert keskar_phi(f, x, 1e-3, directions=basis) == pytest.approx(100 * 0.5 * float((h * inside**2).sum()) / 3, rel=1e-9)


def test_phi_in_a_random_subspace_uses_the_pseudo_inverse() -> None:
    """In one dimension, x + a y with |y| <= radius (|a x|/|a|^2 + 1): no search is needed."""
    a, x = random_directions(30, 1, seed=5).double(), torch.linspace(-3, 5, 30, dtype=torch.float64)
    reach = 1e-2 * (abs(float(torch.linalg.pinv(a) @ x)) + 1)
    f = quadratic(torch.eye(30, dtype=torch.float64), 0.0, x)
    assert keskar_phi(f, x, 1e-2, directions=a) == pytest.approx(100 * 0.5 * float((a * reach).square().sum()), rel=1e-9)


def test_random_directions_have_the_size_that_is_stated() -> None:
    found = random_directions(20_000, 5, seed=1)
    assert found.shape == (20_000, 5)
    assert found.dtype == torch.float32
    assert abs(float(found.std()) - 1) < 0.02
    assert torch.equal(found, random_directions(20_000, 5, seed=1))
    assert not torch.equal(found, random_directions(20_000, 5, seed=2))


def test_phi_is_never_negative_and_0_where_nothing_rises() -> None:
    x = torch.ones(5, dtype=torch.float64)
    flat = torch.zeros(5, dtype=torch.float64)
    assert keskar_phi(lambda y: (2.0, flat), x, 1e-3) == 0.0
    peak = quadratic(-torch.eye(5, dtype=torch.float64), 3.0, x)
    assert keskar_phi(peak, x, 1e-3) == 0.0


@pytest.mark.parametrize(
    ("at", "elsewhere"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (-1.0, 1.0), (-3.0, 1.0)]
)
def test_an_undefined_phi_is_nan(at: float, elsewhere: float) -> None:
    x = torch.zeros(3, dtype=torch.float64)
    assert math.isnan(keskar_phi(lambda y: (at if torch.equal(y, x) else elsewhere, torch.ones(3, dtype=torch.float64)), x, 1e-3))


# -- batch sharpness -----------------------------------------------------------------------------------------------------------


def test_batch_sharpness_is_the_mean_of_the_quotients() -> None:
    found = batch_sharpness([(2.0, 1.0), (12.0, 2.0), (0.0, 0.0)])  # quotients 2 and 6; the last batch has no direction
    assert (found.value, found.standard_error, found.ratio_of_means, found.batches) == (4.0, 2.0, 14 / 3, 2)
    assert math.isnan(batch_sharpness([(3.0, 1.0)]).standard_error)
    assert math.isnan(batch_sharpness([]).value)
    assert math.isnan(batch_sharpness([(math.nan, 1.0)]).value)


def test_the_curvature_along_the_gradient_of_a_batch_is_that_of_the_whole_hessian() -> None:
    net, data = network(), Regression()
    batch = [(float(n), (data.x[a : a + n], data.y[a : a + n])) for a, n in ((0, 60), (60, 43))]  # all 103, in two pieces
    surface = surface_of(net)
    along, square = surface.along_gradient(batch)
    gradient = surface.loss_and_gradient()[1]
    assert square == pytest.approx(float(gradient @ gradient), rel=1e-9)
    assert along == pytest.approx(float(gradient @ whole_hessian(net) @ gradient), rel=1e-9)


def test_directions_that_do_not_fit_into_memory_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"subspace=1000000: takes 4e\+06 GB for 1000000000 parameters, more than half of the .* GB of memory"
    ):
        random_directions(10**9, 10**6)

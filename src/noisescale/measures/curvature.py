"""The curvature of a loss at given weights: the largest eigenvalue of its Hessian, Keskar's phi, and the sharpness of its batches.

All of these are pure functions of losses, gradients and Hessian-vector products, which may be those of a network or of a formula. None of
them says how well a network generalises: see docs/curvature.md for what has been objected to each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisescale.errors import ConfigError

__all__ = ["BatchSharpness", "Eigenvalue", "batch_sharpness", "keskar_phi", "largest_eigenvalue", "random_directions"]

DENSE = 20
"""Up to so many parameters the Hessian is computed as a whole; Lanczos needs more dimensions than it keeps vectors."""

ROWS = 1 << 16
"""Rows of a matrix that are in float64 at a time."""

START = 0.01
"""L-BFGS-B starts at a random point of the box that is so many times smaller, because y = 0 may be stationary."""


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue of a symmetric matrix.

    Args:
        value: lambda; nan if it was not found.
        residual: |A v - lambda v| / |lambda| for the unit vector v that was found; some eigenvalue is within residual x |lambda|.
        products: how many products A v it took.
    """

    value: float
    residual: float
    products: int


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], size: int, *, tolerance: float = 1e-3, most_products: int = 1000, seed: int = 0
) -> Eigenvalue:
    """lambda_max = max over |v| = 1 of v A v, of a symmetric matrix A that is known by its products A v.

    It is the largest eigenvalue, not the one of the largest size.

    Lanczos with restarts (ARPACK, 20 vectors of `size` float64 numbers), from a random vector, until the residual is at most `tolerance`.
    The error of lambda is at most |lambda| x residual, and much smaller if the next eigenvalue is not close. For the Hessian of a loss,
    gradient descent with a learning rate above 2/lambda_max diverges on the quadratic approximation of the loss.

    Args:
        product: float64 (size,) -> float64 (size,), on the CPU.
        size: the number of dimensions, >= 1.
        tolerance: of the residual, relative to |lambda|; products in float32 allow for about 1e-5.
        most_products: nan is returned if more are needed.
        seed: of the random start.

    Returns:
        The eigenvalue; nan if a product is not finite, or `most_products` are not enough.
    """
    count = 0

    def counted(vector: Any) -> Any:
        nonlocal count
        count += 1
        found = product(torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64).reshape(-1))).numpy()
        if not np.isfinite(found).all():
            raise _NotFinite
        return found

    try:
        value, vector = _largest(counted, size, tolerance, most_products, seed)
        residual = float(np.linalg.norm(counted(vector) - value * vector))
    except _NotFinite:
        return Eigenvalue(math.nan, math.nan, count)
    return Eigenvalue(value, residual / abs(value) if value else residual, count)


def _largest(product: Callable[[Any], Any], size: int, tolerance: float, most_products: int, seed: int) -> tuple[float, Any]:
    """(lambda_max, a unit vector of it)."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # here, so that a run that measures nothing does not load it

    start = np.random.default_rng(seed).standard_normal(size)
    if size <= DENSE:
        matrix = np.stack([product(column) for column in np.eye(size)])
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return float(values[-1]), vectors[:, -1]
    image = product(start / np.linalg.norm(start))
    if not image.any():  # a matrix of zeros, on which ARPACK has nothing to do
        return 0.0, start / np.linalg.norm(start)
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    vectors_kept = min(size, DENSE)
    try:
        values, vectors = eigsh(
            operator, k=1, which="LA", v0=start, ncv=vectors_kept, tol=tolerance, maxiter=max(1, most_products // vectors_kept)
        )
    except ArpackNoConvergence:
        raise _NotFinite from None
    return float(values[0]), vectors[:, 0]


class _NotFinite(Exception):
    """A loss, a gradient or a product is nan or inf, or there is no result."""


def keskar_phi(
    loss_and_gradient: Callable[[Tensor], tuple[float, Tensor]],
    x: Tensor,
    radius: float,
    *,
    directions: Tensor | None = None,
    iterations: int = 10,
    seed: int = 0,
) -> float:
    """phi = 100 (max_{y in C} f(x + A y) - f(x)) / (1 + f(x)), with C = {y: |y_i| <= radius (|(A+ x)_i| + 1)}; in percent of 1 + f(x).

    A is the identity, or `directions`, whose pseudo-inverse is A+. The maximum is the largest value that `iterations` iterations of
    L-BFGS-B find, from a random point a hundredth of the box in size; so phi is a lower bound, and never negative. The variables are
    counted in units of the box, and the loss in a unit in which the first gradient has entries of size 1 on average, so that neither the
    size of the loss nor that of the box decides how far ten iterations get. The iterations do not end early.

    Args:
        loss_and_gradient: float64 (n,) -> (f, its gradient, float64 (n,)), on the CPU; f > -1.
        x: the weights, float64 (n,).
        radius: epsilon, > 0; 1e-3 and 5e-4 in the paper.
        directions: A, (n, p), see `random_directions`; None: the identity.
        iterations: >= 1; 10 in the paper.
        seed: of the random start.

    Returns:
        phi; nan if f is not finite somewhere, or f(x) <= -1.

    Not to be confused with lambda_max: near a minimum, phi/100 (1 + f) is about half the curvature times the square of the distance.
    Source: Keskar et al. 1609.04836, definition 2.1; their code was never released.
    """
    from scipy.optimize import Bounds, minimize  # here, so that a run that measures nothing does not load it

    base, _ = loss_and_gradient(x)
    if not math.isfinite(base) or base <= -1:
        return math.nan
    center = x if directions is None else _pseudo_inverse(directions, x)
    box = radius * (center.abs() + 1)
    highest, scale = base, 0.0

    def value(u: Any) -> tuple[float, Any]:
        nonlocal highest, scale
        y = torch.from_numpy(np.ascontiguousarray(u)) * box
        loss, gradient = loss_and_gradient(x + (y if directions is None else (directions @ y.to(directions.dtype)).double()))
        ascent = (gradient if directions is None else (directions.T @ gradient.to(directions.dtype)).double()) * box
        if not math.isfinite(loss) or not bool(torch.isfinite(ascent).all()):
            raise _NotFinite
        highest = max(highest, loss)
        scale = scale or 1.0 / max(float(ascent.abs().mean()), 1e-300)
        return -scale * loss, (-scale * ascent).numpy()

    start = START * np.random.default_rng(seed).uniform(-1.0, 1.0, len(box))
    try:
        minimize(
            value,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(np.full(len(box), -1.0), np.full(len(box), 1.0)),
            options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
        )
    except _NotFinite:
        return math.nan
    return 100.0 * (highest - base) / (1.0 + base)


def _pseudo_inverse(matrix: Tensor, x: Tensor) -> Tensor:
    """A+ x = (A' A)^-1 A' x in float64, by blocks of rows, so that no second matrix of this size is needed."""
    p = matrix.shape[1]
    squares, image = torch.zeros(p, p, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
    for part, of_x in zip(matrix.split(ROWS), x.split(ROWS), strict=True):
        rows = part.double()
        squares += rows.T @ rows
        image += rows.T @ of_x
    solved: Tensor = torch.linalg.solve(squares, image)
    return solved


def random_directions(size: int, dimensions: int, seed: int = 0) -> Tensor:
    """A of `keskar_phi`: independent standard normal entries, float32 (size, dimensions); 4 size x dimensions bytes.

    The paper does not say how its A is drawn. With these entries the box moves each weight by about 0.6 radius sqrt(dimensions).

    Raises:
        ConfigError: it would take more than half of the memory that is free.
    """
    needed, free = 4 * size * dimensions, _free_memory()
    if needed > free / 2:
        problem = f"takes {needed / 1e9:.3g} GB for {size} parameters, more than half of the {free / 1e9:.3g} GB of memory that are free"
        raise ConfigError("subspace", dimensions, problem, "use fewer dimensions")
    return torch.randn(size, dimensions, generator=torch.Generator().manual_seed(seed))


def _free_memory() -> float:
    """Bytes of memory that are free; inf where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


@dataclass(frozen=True)
class BatchSharpness:
    """The mean curvature of the batches of a loss, each along its own gradient.

    Args:
        value: E[g H_B g / |g|^2]; nan without batches.
        standard_error: of `value`; nan for less than two batches.
        ratio_of_means: E[g H_B g] / E[|g|^2]; batches with a large gradient count more.
        batches: how many batches there were.
    """

    value: float
    standard_error: float
    ratio_of_means: float
    batches: int


def batch_sharpness(found: Iterable[tuple[float, float]]) -> BatchSharpness:
    """E[g H_B g / |g|^2] over batches B, with the gradient g and the Hessian H_B of the loss of B, both at the same weights.

    SGD without momentum at a constant learning rate lr drives it to about 2/lr and keeps it there. With momentum m, small batches stop at
    2 (1 - m)/lr, and large ones at 2 (1 + m)/lr (2604.14108).

    Args:
        found: (g H_B g, |g|^2) of each batch. A batch whose gradient is 0 has no direction, and is left out.

    Not to be confused with lambda_max of the whole loss, which lies below it, the more so the smaller the batches are.
    Source: Andreyev & Beneventano 2412.20553, the mean of the quotients as in the authors' code, which also has the quotient of the means.
    """
    pairs = [(along, square) for along, square in found if square != 0.0]
    if not pairs:
        return BatchSharpness(math.nan, math.nan, math.nan, 0)
    quotients = [along / square for along, square in pairs]
    n = len(pairs)
    mean = math.fsum(quotients) / n
    error = math.sqrt(math.fsum((q - mean) ** 2 for q in quotients) / (n - 1) / n) if n > 1 else math.nan
    return BatchSharpness(mean, error, math.fsum(a for a, _ in pairs) / math.fsum(s for _, s in pairs), n)

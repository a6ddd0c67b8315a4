"""What the quantities of `Sharpness` cost, in passes: one pass is the loss and its gradient on the examples that are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.contenders import random_images
from benchmarks.measure import Comparison, Wanted
from noisescale.measures.curvature import batch_sharpness, keskar_phi, largest_eigenvalue, random_directions
from noisescale.measures.loss_surface import LossSurface
from noisescale.models import MLP
from noisescale.plans.curvature_options import CurvatureOptions

__all__ = ["comparisons"]

PASS, LARGEST, BATCHES, PHI, SUBSPACE = "a pass", "lambda_max", "batch sharpness, B 64", "phi, all parameters", "phi, 100 directions"


def comparisons(quick: bool) -> Iterator[Comparison]:
    """The default options of `Sharpness`, on the MLP of `steps` after an epoch of its training."""
    options = CurvatureOptions()
    surface, batches = _trained(200 if quick else options.examples or 2000, options)
    x = surface.point()
    directions = random_directions(surface.size, options.subspace or 100)
    phi = partial(keskar_phi, surface.loss_and_gradient, x, options.radii[0], iterations=2 if quick else options.iterations)
    contenders: dict[str, Callable[[], object]] = {
        PASS: surface.loss_and_gradient,
        LARGEST: lambda: largest_eigenvalue(surface.product, surface.size, tolerance=0.5 if quick else options.tolerance or 1e-3),
        BATCHES: lambda: batch_sharpness(surface.along_gradient([batch]) for batch in batches),
        PHI: phi,
        SUBSPACE: lambda: phi(directions=directions),
    }
    yield Comparison(
        "curvature of an MLP with 235 146 parameters, 2000 examples",
        {name: partial(_timed, work) for name, work in contenders.items()},
        [Wanted(name, PASS) for name in contenders if name != PASS],
        per="measurement",
        unit="ms",
        once_before=not quick,
    )


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _trained(examples: int, options: CurvatureOptions) -> tuple[LossSurface, list[tuple[float, tuple[torch.Tensor, torch.Tensor]]]]:
    """The loss on some examples, in chunks, and batches of 64 of them."""
    torch.manual_seed(0)
    images, labels = random_images(examples, (1, 28, 28))
    x = images.float() / 255 - 0.5
    net = MLP(input_shape=(1, 28, 28), num_outputs=10, widths=[256, 128])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for part in torch.arange(examples).split(64):
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), labels[part]).backward()
        optimizer.step()
    chunks = [(float(len(part)), (x[part], labels[part])) for part in torch.arange(examples).split(options.chunk_size)]
    surface = LossSurface(lambda batch: F.cross_entropy(net(batch[0]), batch[1]), list(net.parameters()), chunks)
    drawn = (torch.randperm(examples)[:64] for _ in range(options.batches))
    return surface, [(64.0, (x[part], labels[part])) for part in drawn]

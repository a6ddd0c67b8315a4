"""Ghost batch norm, compared with a loop over the batch norm of torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from noisescale.models import GhostBatchNorm2d
from tests.helpers.models import gradients
from tests.helpers.rounding import assert_equal_to_rounding


def randomised(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    return layer


def run(layers: nn.BatchNorm2d, images: Tensor, weights: Tensor, parts: list[int] | None = None) -> list[Tensor]:
    """The output, gradients and buffers of a layer; with `parts` it is called once for each part."""
    images = images.clone().requires_grad_()
    out = layers(images) if parts is None else torch.cat([layers(chunk) for chunk in images.split(parts)])
    (out * weights).sum().backward()
    assert images.grad is not None
    return [out.detach(), images.grad, *gradients(layers), *layers.buffers()]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("n", range(2, 18))
@pytest.mark.parametrize("ghost", [2, 3, 4, 8])
def test_ghost_batch_norm_is_a_loop_over_batch_norm(n: int, ghost: int, cumulative: bool, channels_last: bool) -> None:
    torch.manual_seed(n)
    layer = randomised(GhostBatchNorm2d(3, ghost)).double()
    plain = nn.BatchNorm2d(3).double()
    plain.load_state_dict(layer.state_dict())
    if cumulative:
        layer.momentum = plain.momentum = None
    images, weights = torch.randn(2, n, 3, 2, 3, dtype=torch.float64)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    k = -(-n // ghost)
    parts = [n // k + 1] * (n % k) + [n // k] * (k - n % k)
    assert sum(parts) == n
    assert max(parts) <= ghost
    for _ in range(2):
        layer.zero_grad()
        plain.zero_grad()
        for got, expected in zip(run(layer, images, weights), run(plain, images, weights, parts), strict=True):
            assert_equal_to_rounding(got, expected, 1000)  # sums of at most 17 x 6 numbers, of which a mean is subtracted
    assert layer.num_batches_tracked == 2 * k
    assert_equal_to_rounding(layer.eval()(images), plain.eval()(images), 1000)


@pytest.mark.parametrize("ghost", [8, 9, 1000])
def test_ghost_batch_norm_of_one_ghost_batch_is_batch_norm_bit_for_bit(ghost: int) -> None:
    torch.manual_seed(0)
    layer, plain = randomised(GhostBatchNorm2d(3, ghost)), nn.BatchNorm2d(3)
    plain.load_state_dict(layer.state_dict())
    images, weights = torch.randn(2, 8, 3, 4, 4)
    for got, expected in zip(run(layer, images, weights), run(plain, images, weights), strict=True):
        assert torch.equal(got, expected)


def test_ghost_batch_norm_normalises_each_ghost_batch() -> None:
    images = torch.cat([torch.randn(4, 3, 5, 5) * scale + scale for scale in (1.0, 10.0, 100.0)])
    out = GhostBatchNorm2d(3, 4)(images)
    for chunk in out.split(4):
        # The mean of 100 numbers around 1 in single precision, 1.2e-7; the variance is less exact, because the layer adds 1e-5 to it.
        torch.testing.assert_close(chunk.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(chunk.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_evaluation_of_ghost_batch_norm_does_not_depend_on_the_batch() -> None:
    layer = GhostBatchNorm2d(3, 4)
    layer(torch.randn(12, 3, 5, 5))
    layer.eval()
    images, before = torch.randn(12, 3, 5, 5), copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(layer(images), torch.cat([layer(image[None]) for image in images]))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), layer.state_dict().values(), strict=True))

"""The loss along the line between two sets of weights."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch.nn import functional as F

from noisescale.measures.line import line_places, loss_along_line
from noisescale.measures.loss_surface import LossSurface
from noisescale.measures.module_surface import Measured
from tests.helpers.regression import Regression, network


def test_the_places_have_the_ends_of_the_line() -> None:
    assert line_places(-0.5, 1.5, 5) == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert line_places(-1.0, 0.8, 3) == [-1.0, pytest.approx(-0.1), 0.0, 0.8]
    assert line_places(2.0, 3.0, 2) == [2.0, 3.0]


def test_weights_are_on_the_line_and_statistics_between_its_ends() -> None:
    """Far beyond an end, a variance on the line would be negative, and the loss nan."""
    data = Regression()
    a, b = network(norm=True), network(norm=True)
    with torch.no_grad():
        for p in b.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype))
    for factor, net in ((3.0, a), (0.2, b)):
        net(factor * data.x)  # running statistics
        net.eval()

    def loss(net: Any) -> float:
        return float(F.mse_loss(net(data.x), data.y).detach())

    def between(t: float, statistics: float) -> float:
        mixed = copy.deepcopy(a)
        state = b.state_dict()
        weights = dict(a.named_parameters())
        for name, value in mixed.state_dict().items():
            if value.is_floating_point():
                value.add_((state[name] - value) * (t if name in weights else statistics))
        return loss(mixed)

    twin = copy.deepcopy(a)
    batch = [(103.0, (data.x, data.y))]
    surface = LossSurface(lambda xy: F.mse_loss(twin(xy[0]), xy[1]), list(twin.parameters()), batch)
    found = Measured(surface, cast(Any, twin), 103, 103, 1, lambda size, number: iter([]))
    points = dict(loss_along_line(found, b.state_dict(), [-2.0, 0.0, 0.25, 1.0, 4.0]))
    assert points[0.0] == pytest.approx(loss(a), rel=1e-12)
    assert points[1.0] == pytest.approx(loss(b), rel=1e-12)
    for t, statistics in ((-2.0, 0.0), (0.25, 0.25), (4.0, 1.0)):
        assert points[t] == pytest.approx(between(t, statistics), rel=1e-9)
    assert math.isnan(between(4.0, 4.0))

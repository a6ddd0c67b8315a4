"""The loss along the straight line from one set of weights to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from noisescale.measures.module_surface import Measured

__all__ = ["line_places", "loss_along_line"]


def line_places(first: float, last: float, count: int) -> list[float]:
    """`count` equally distant places from `first` to `last`, and the two ends of the line, 0 and 1, if they lie between."""
    step = (last - first) / (count - 1)
    return sorted({*(first + i * step for i in range(count)), *(end for end in (0.0, 1.0) if first <= end <= last)})


def loss_along_line(found: Measured, other: Mapping[str, Tensor], places: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(t, f((1 - t) a + t b)) for each place t, where a is the state of the module that is measured, and b that of another.

    Floating-point buffers, such as the running statistics of batch norm, are interpolated, too, but not extrapolated, because a variance
    would become negative: beyond an end of the line they are those of that end. Other buffers are those of a. At t = 0 and 1 the states are
    exactly a and b.

    Args:
        found: the module.
        other: the state_dict of a module of the same kind.
        places: any numbers; 0 is a, and 1 is b.

    Not to be confused with a path of low loss between the two: there may be one where the line goes over a hill (1802.10026).
    Sources: Goodfellow et al. 1412.6544; Keskar et al. 1609.04836, figure 3.
    """
    weights = {name for name, _ in found.module.named_parameters(remove_duplicate=False)}
    states = [
        (value, value.detach().cpu().clone(), other[name].cpu(), name in weights)
        for name, value in found.module.state_dict().items()
        if value.is_floating_point()
    ]
    for t in places:
        with torch.no_grad():
            for value, a, b, is_weight in states:
                at = t if is_weight else min(max(t, 0.0), 1.0)
                value.copy_(a if at == 0 else b if at == 1 else torch.lerp(a.double(), b.double(), at).to(a.dtype))
        yield t, found.surface.loss()

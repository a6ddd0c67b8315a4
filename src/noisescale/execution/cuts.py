"""Compare the gradient of a batch with those of its two cuts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Cuts", "Pass"]


@dataclass(frozen=True)
class Pass:
    """The loss of a batch of n examples, and its gradient, one tensor for each parameter."""

    n: int
    loss: float
    gradient: Sequence[Tensor]

    @property
    def is_finite(self) -> bool:
        """Whether neither the loss nor the gradient has a nan or an infinity."""
        return math.isfinite(self.loss) and math.isfinite(_norm(self.gradient))


@dataclass(frozen=True)
class Cuts:
    """A batch of n examples as a whole and in two cuts, n = n_1 + n_2, all at the same weights.

    If the loss is a mean over examples, then whole = (n_1 first + n_2 second)/n, for the loss and for the gradient.
    """

    whole: Pass
    first: Pass
    second: Pass

    def error(self, share: float | None = None) -> tuple[float, float]:
        """|whole - (a first + (1 - a) second)| of the gradient and of the loss, relative to the sizes of the two cuts.

        Args:
            share: a, the weight of the first cut; None: n_1/n. A cut of weight 0 adds nothing, though its loss be nan.
        """
        a = self.first.n / self.whole.n if share is None else share
        return self._error(a, 1.0 - a)

    def error_of_sum(self) -> tuple[float, float]:
        """The same for whole = first + second."""
        return self._error(1.0, 1.0)

    def _error(self, a: float, b: float) -> tuple[float, float]:
        parts = [(weight, part) for weight, part in ((a, self.first), (b, self.second)) if weight]
        missing = list(self.whole.gradient)
        for weight, part in parts:
            missing = [left - weight * each for left, each in zip(missing, part.gradient, strict=True)]
        size = sum(abs(weight) * _norm(part.gradient) for weight, part in parts)
        loss = abs(self.whole.loss - sum(weight * part.loss for weight, part in parts))
        return _ratio(_norm(missing), size), _ratio(loss, sum(abs(weight * part.loss) for weight, part in parts))

    def is_finite(self, share: float | None = None) -> bool:
        """Whether the passes that count are: all but a cut of weight 0."""
        return self.whole.is_finite and (share == 0.0 or self.first.is_finite) and (share == 1.0 or self.second.is_finite)

    def share(self) -> float:
        """The weight of the first cut that fits the gradient best, by least squares; nan if both cuts have the same gradient."""
        pairs = list(zip(self.whole.gradient, self.first.gradient, self.second.gradient, strict=True))
        along = sum(float(((w - s) * (f - s)).sum()) for w, f, s in pairs)
        length = sum(float(((f - s) ** 2).sum()) for _, f, s in pairs)
        return along / length if length else math.nan


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else (0.0 if part == 0.0 else math.inf)

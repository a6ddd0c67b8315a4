"""The loss of fixed examples as a function of the weights: its value, its gradient, and the products of its Hessian with vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["LossSurface"]

Chunk = tuple[float, Any]
"""(weight, batch): the weight of its loss, its number of examples unless the loss is a mean over something else."""


class LossSurface:
    """f(x) = sum_j w_j f_j(x) / sum_j w_j over chunks j of examples, where x is all parameters as one vector, float64 (n,), on the CPU.

    The loss is computed in the precision of the parameters, and summed over chunks in float64. After each call the parameters are as they
    were.

    Args:
        loss: batch -> its mean loss, a scalar that depends on the parameters; the same for the same batch and parameters.
        parameters: the parameters, in the order of x.
        chunks: the examples, see `Chunk`; those of this device, of which there may be none.
        total: adds a float64 vector up over all devices; None: there is one device.
        advance: called after each forward pass, for a progress bar.
    """

    def __init__(
        self,
        loss: Callable[[Any], Tensor],
        parameters: Sequence[Tensor],
        chunks: Sequence[Chunk],
        total: Callable[[Tensor], Tensor] | None = None,
        advance: Callable[[], None] | None = None,
    ) -> None:
        self._loss, self._parameters, self._chunks = loss, list(parameters), list(chunks)
        self._total, self._advance = total or (lambda summed: summed), advance or (lambda: None)
        self.size = sum(parameter.numel() for parameter in self._parameters)

    def point(self) -> Tensor:
        """x, the parameters as they are."""
        return _flat(self._parameters)

    def loss_and_gradient(self, x: Tensor | None = None) -> tuple[float, Tensor]:
        """(f(x), its gradient, float64 (n,)); None: at the parameters as they are."""
        with self._at(x):
            return self._of(self._chunks)

    def loss(self, x: Tensor | None = None) -> float:
        """f(x), without its gradient."""
        sums = torch.zeros(2, dtype=torch.float64)
        with self._at(x), torch.no_grad():
            for weight, batch in self._chunks:
                sums += torch.tensor([weight * float(self._loss(batch)), weight], dtype=torch.float64)
                self._advance()
        summed, weights = self._total(sums).tolist()
        return float(summed / weights)

    def product(self, vector: Tensor) -> Tensor:
        """H v, with the Hessian of f at the parameters as they are; float64 (n,)."""
        return self._product(self._chunks, vector)

    def along_gradient(self, chunks: Sequence[Chunk]) -> tuple[float, float]:
        """(g H g, |g|^2), with the gradient and the Hessian of the loss of other examples, a batch; all devices call it together."""
        _, gradient = self._of(chunks)
        return float(gradient @ self._product(chunks, gradient)), float(gradient @ gradient)

    def _of(self, chunks: Sequence[Chunk]) -> tuple[float, Tensor]:
        sums = torch.zeros(self.size + 2, dtype=torch.float64)
        for weight, batch in chunks:
            loss = self._loss(batch)
            gradient = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            sums[:-2] += weight * self._filled(gradient)
            sums[-2:] += torch.tensor([weight * float(loss.detach()), weight], dtype=torch.float64)
            self._advance()
        sums = self._total(sums)
        return float(sums[-2] / sums[-1]), sums[:-2] / sums[-1]

    def _product(self, chunks: Sequence[Chunk], vector: Tensor) -> Tensor:
        parts = [part.to(p.dtype).to(p.device).view_as(p) for part, p in zip(self._parts(vector), self._parameters, strict=True)]
        sums = torch.zeros(self.size + 1, dtype=torch.float64)
        for weight, batch in chunks:
            gradient = torch.autograd.grad(self._loss(batch), self._parameters, create_graph=True, allow_unused=True)
            along = [(g * part).sum() for g, part in zip(gradient, parts, strict=True) if g is not None and g.requires_grad]
            if along:  # otherwise the loss is linear in all parameters
                sums[:-1] += weight * self._filled(torch.autograd.grad(torch.stack(along).sum(), self._parameters, allow_unused=True))
            sums[-1] += weight
            self._advance()
        sums = self._total(sums)
        return sums[:-1] / sums[-1]

    def _filled(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """A gradient as one vector, with zeros for parameters that the loss does not use."""
        return _flat([torch.zeros_like(p) if t is None else t for t, p in zip(tensors, self._parameters, strict=True)])

    def _parts(self, vector: Tensor) -> Sequence[Tensor]:
        return torch.split(vector, [parameter.numel() for parameter in self._parameters])

    @contextmanager
    def _at(self, x: Tensor | None) -> Iterator[None]:
        """Give the parameters the values x for a while."""
        if x is None:
            yield
            return
        before = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._set(self._parts(x))
            yield
        finally:
            self._set(before)

    def _set(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._parameters, values, strict=True):
                parameter.copy_(value.to(parameter.dtype).view_as(parameter))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    flat = [(t.to_dense() if t.is_sparse else t).detach().reshape(-1) for t in tensors]
    return torch.cat([part.cpu().double() for part in flat])  # in this order: not every device has float64

"""A module that runs out of memory, as torch says it: above a number of examples, and in the part of an update that one chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.helpers.own import Module

ERRORS: dict[str, Callable[[], BaseException]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB. Of it"),
    "cpu": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    "python": MemoryError,
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "a fault of the code": lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
}


class _InBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, error: BaseException) -> Tensor:
        ctx.error = error
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise ctx.error


class _Sgd(torch.optim.SGD):
    """Changes some of the weights, and then fails."""

    error: BaseException | None = None

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if self.error is not None:
            raise self.error
        return loss


class Hungry(Module):
    """Runs out of memory in every micro-batch of more than `limit` examples, but not in the first `after` of them.

    Args:
        limit: examples.
        after: how many of the larger micro-batches there is memory for, because it was not in pieces yet.
        place: forward | backward | step | validation: where in the update.
        error: the name of one of `ERRORS`.
        rank: the process that it happens in; -1: in all of them.
    """

    def __init__(self, limit: int = 8, after: int = 0, place: str = "forward", error: str = "cuda", rank: int = -1) -> None:
        super().__init__()
        self.limit, self.after, self.place, self.error_name, self.rank = limit, after, place, error, rank
        self.large = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        large = len(batch[0]) > self.limit
        self.large += large
        if not large or not self._runs_out("forward", "backward", "step"):
            return self.error(batch)
        error = ERRORS[self.error_name]()
        if self.place == "forward":
            raise error
        if self.place == "step":
            self.trainer.optimizers[0].error = error  # type: ignore[attr-defined]
            return self.error(batch)
        return _InBackward.apply(self.error(batch), error)  # type: ignore[no-any-return]

    def _runs_out(self, *places: str) -> bool:
        return self.place in places and self.large > self.after and self.rank in (-1, self.global_rank)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self._runs_out("validation"):
            raise ERRORS[self.error_name]()
        super().validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _Sgd(self.parameters(), lr=self.lr, momentum=0.9)


class HungryInDouble(Hungry):
    """The same in float64, with the same initial weights each time."""

    def __init__(self, **options: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            super().__init__(**options)
        self.double()

    def error(self, batch: Any) -> Tensor:
        x, y = batch
        return super().error((x.double(), y.double()))

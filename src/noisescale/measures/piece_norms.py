"""The squared norms of the gradients of the pieces of one update, taken while they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytorch_lightning as pl
import torch
from torch import Tensor

from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.compatibility import untyped
from noisescale.execution.loader import PlannedLoader
from noisescale.measures.gradients import Piece, Sums, sums_of

__all__ = ["PieceNorms"]


@dataclass
class _Pass:
    """A backward pass: w and n of its piece, the factor of its loss, and the norms of its gradient, parameter by parameter."""

    weight: float
    size: float
    factor: float
    norms: list[tuple[int, Tensor]] = field(default_factory=list)

    def squared_norm(self) -> float:
        """|c S G_i|^2, c the factor and S the scale of mixed precision."""
        if not self.norms:
            return 0.0
        return float(torch.stack([norm for _, norm in self.norms]).double().square().sum())

    @property
    def is_whole(self) -> bool:
        """Whether no parameter got its gradient in several parts, whose norms do not add up to that of their sum."""
        return len({number for number, _ in self.norms}) == len(self.norms)


class PieceNorms:
    """Listens to the gradients of the parameters during one update.

    A hook on a parameter sees the gradient of each backward pass before it is added to what is there, and before devices average it.

    Args:
        trainer: the trainer, before the first backward pass of the update, or where it is resumed inside of it.
        done: what `state` said of the pieces before.
    """

    def __init__(self, trainer: pl.Trainer, done: Sequence[Sequence[float]] = ()) -> None:
        self._done = [tuple(piece) for piece in done]
        self._passes: list[_Pass] = []
        groups = trainer.optimizers[0].param_groups
        self._parameters = [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]
        self._handles = [parameter.register_hook(self._hook(number)) for number, parameter in enumerate(self._parameters)]
        callbacks = untyped(trainer).callbacks
        self._planned = next((each for each in callbacks if isinstance(each, BatchSizeScheduler)), None)

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def listen(gradient: Tensor) -> None:
            self._passes[-1].norms.append((number, _norm(gradient)))

        return listen

    def start_piece(self, trainer: pl.Trainer, size: int) -> None:
        """A backward pass starts, of `size` examples, unless there is a plan, which knows that."""
        loader, k = trainer.train_dataloader, int(trainer.accumulate_grad_batches)
        if self._planned is None or not isinstance(loader, PlannedLoader) or loader.current is None:
            self._passes.append(_Pass(1.0, float(size), 1.0 / k))
            return
        weight = float(loader.current.size) if loader.weight is None else loader.weight
        self._passes.append(_Pass(weight, weight, self._planned.loss_factor / k))

    def finish(self, trainer: pl.Trainer) -> tuple[Sums, float] | None:
        """The sums over all pieces on all devices, and |G_B|^2; to be called where gradients are averaged and unscaled, but not clipped.

        A piece of weight 0 counts as none. None if a parameter got its gradient of a pass in several parts, whose norms do not add up.
        """
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        known = [(w, n, c, square) for w, n, c, square in self.state() if w > 0.0]
        sums = sums_of(Piece(w, n, square / (c * scale) ** 2) for w, n, c, square in known)
        whole = all(each.is_whole for each in self._passes)
        if trainer.world_size > 1:
            here = torch.tensor([*sums, float(not whole)], dtype=torch.float64, device=trainer.strategy.root_device)
            *added, parted = trainer.strategy.reduce(here, reduce_op="sum").tolist()
            sums, whole = Sums(*added), parted == 0.0
        if not whole:
            return None
        norms = [_norm(parameter.grad) for parameter in self._parameters if parameter.grad is not None]
        squared = float(torch.stack(norms).double().square().sum()) if norms else 0.0
        if self._planned is None and sums.pieces:  # Lightning divides by k even where an epoch ends before k micro-batches
            squared *= (int(trainer.accumulate_grad_batches) * trainer.world_size / sums.pieces) ** 2
        return sums, squared

    def state(self) -> list[tuple[float, ...]]:
        """(weight, size, factor, squared norm) of each piece so far, in plain numbers."""
        return [*self._done, *((each.weight, each.size, each.factor, each.squared_norm()) for each in self._passes)]

    def close(self) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _norm(gradient: Tensor) -> Tensor:
    values = gradient.detach()
    if values.is_sparse:
        values = values.coalesce().values()
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))
    return norm

"""What the monitor has seen of an update on this device, and what that is over all devices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pytorch_lightning as pl
import torch

from noisescale.execution.loader import PlannedLoader

__all__ = ["MicroBatchSeen", "UpdateSeen", "totals", "weight_of"]


class MicroBatchSeen(NamedTuple):
    """A micro-batch that is done: its examples, its weight if there are weights, and its loss / k, still on the device."""

    examples: int
    weight: float | None
    loss: torch.Tensor | None

    @property
    def share(self) -> float:
        """Its weight in the mean loss."""
        return self.examples if self.weight is None else self.weight


@dataclass(slots=True)
class UpdateSeen:
    """An update that is done, as seen by one device.

    `divisor` is k, by which Lightning has divided the losses. `expected` is B as far as one device can know it: the number that it counted
    if it is the only device, otherwise the planned B, or W times its number without a plan.
    """

    step: int
    epoch: float | None
    lr: float
    momentum: float
    expected: int
    micro: int
    accumulate: int
    divisor: int
    micro_batches: list[MicroBatchSeen]
    wall_time: float


def totals(trainer: pl.Trainer, rows: list[UpdateSeen], together: bool) -> list[tuple[int, float | None, float]]:
    """(B, sum of the weights, mean loss) of each row's update; no weight if there are none; the loss is nan if there is none.

    If `together`, all are computed over all devices. Otherwise B is `expected`, and the others are those of this device.
    """
    tensors = [micro.loss for row in rows for micro in row.micro_batches if micro.share and micro.loss is not None]
    values = iter(torch.stack(tensors).tolist() if tensors else [])
    sums: list[tuple[float, ...]] = []
    for row in rows:
        parts = [(micro.share, next(values)) for micro in row.micro_batches if micro.share and micro.loss is not None]
        handed_out = sum(micro.examples for micro in row.micro_batches)
        weight = sum(micro.weight or 0.0 for micro in row.micro_batches)
        sums.append((row.divisor * sum(share * value for share, value in parts), sum(share for share, _ in parts), handed_out, weight))
    alone = trainer.world_size == 1
    if together and not alone:
        mine = torch.tensor(sums, dtype=torch.float64, device=trainer.strategy.root_device)
        sums = trainer.strategy.reduce(mine, reduce_op="sum").tolist()
    counted = together or alone
    return [
        (
            int(handed_out) if counted else row.expected,
            None if row.micro_batches[0].weight is None else weight,
            total / share if share else math.nan,
        )
        for row, (total, share, handed_out, weight) in zip(rows, sums, strict=True)
    ]


def weight_of(trainer: pl.Trainer) -> float | None:
    """The weight of the current micro-batch; None if micro-batches are weighted by their numbers of examples."""
    loader = trainer.train_dataloader
    return loader.weight if isinstance(loader, PlannedLoader) else None

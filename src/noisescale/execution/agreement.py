"""Let all processes of a training know, at the same point of it, what one of them knows."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed

__all__ = ["Agreement"]


class Agreement:
    """The largest of the numbers that the processes have given, one point of the training later, on all of them.

    Each process calls `exchange` at the same points, such as the starts of updates. A call returns the largest of the numbers that the
    processes sent at the point before, and sends that of this process. No process waits for the network: what was sent arrives while the
    update between the two points is computed. It is sent over the CPU, so that no GPU waits either.

    With one process, a number is returned at once.

    Args:
        trainer: the trainer, once its processes are connected. All processes must create it at the same point.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.alone = trainer.world_size == 1 or not (distributed.is_available() and distributed.is_initialized())
        gloo = self.alone or "gloo" in str(distributed.get_backend())
        self._group: Any = None if gloo else distributed.new_group(backend="gloo")
        self._number = torch.zeros(1, dtype=torch.int32)
        self._sent: Any = None

    def exchange(self, number: int) -> int:
        """The largest of the numbers >= 0 that were sent by the call before; if it is 0, as at the first call, `number` is sent."""
        if self.alone:
            return number
        if largest := self._arrived():
            return largest
        self._number.fill_(number)
        self._sent = distributed.all_reduce(self._number, distributed.ReduceOp.MAX, self._group, async_op=True)
        return 0

    def settle(self, number: int) -> int:
        """The same without a delay, for the last point: all processes wait for each other."""
        return self.exchange(number) or (0 if self.alone else self._arrived())

    def close(self) -> None:
        """Leave the group; the other processes may be gone."""
        if self._group is not None and distributed.is_initialized():
            distributed.destroy_process_group(self._group)
        self._group = self._sent = None

    def _arrived(self) -> int:
        if self._sent is None:
            return 0
        self._sent.wait()
        self._sent = None
        return int(self._number)

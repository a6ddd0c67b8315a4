"""A scheduler whose updates are cut, and a module that cannot be checked, for tests of the check before training."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from noisescale.callbacks import BatchSizeScheduler
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain


def cutting(**options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(batching.Fixed(size=30), **{"max_micro_batch_size": 12, "seed": 3, **options})


class DrawsItself(Plain):
    """Its loss is random, whatever the layers are."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(F.dropout(batch[0], 0.5)), batch[1])

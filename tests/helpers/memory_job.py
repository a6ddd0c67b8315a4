"""Run one rank of trainings whose micro-batch is searched; prints a line of JSON for each. Started by a test, not a test itself."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any
from unittest import mock

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution import micro_batch_limit, micro_batch_search
from noisescale.plans.strategies import Fixed
from tests.helpers.hungry import ERRORS
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, weights


class Small(Plain):
    """Runs out of memory above a number of examples, which each process has its own of."""

    def __init__(self, capacities: list[int]) -> None:
        super().__init__(network())
        self.capacities = capacities

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(batch[0]) > self.capacities[self.global_rank]:
            raise ERRORS["cuda"]()
        return super().training_step(batch, batch_idx)


def main(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    tried: list[int] = []
    fits = micro_batch_search.fits

    def counted(rehearsal: Any, batch: Any, size: int) -> bool:
        tried.append(size)
        return fits(rehearsal, batch, size)

    with mock.patch.multiple(micro_batch_limit, fits=counted, has_memory_of_its_own=lambda device: True):
        limit, found = _trained(job, "auto")
    _, by_hand = _trained(job, limit)
    return {"limit": limit, "tried": tried, "weights": found, "by hand": by_hand}


def _trained(job: dict[str, Any], limit: int | str | None) -> tuple[int | None, list[float]]:
    batches = BatchSizeScheduler(Fixed(size=32), max_micro_batch_size=limit, seed=5)
    module = Small(job["capacities"])
    strategy = DDPStrategy(process_group_backend="gloo")
    fit(module, batches, strategy=strategy, devices=job["world"], use_distributed_sampler=False, max_epochs=2)
    return batches.limit.value, weights(module).tolist()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in json.loads(sys.argv[1]):
        print("RESULT " + json.dumps(main(each)))

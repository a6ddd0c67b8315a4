"""Run one rank of trainings that measure their gradient noise; prints a line of JSON for each. Started by a test, not a test itself."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale
from noisescale.plans.strategies import MultiStep
from tests.helpers.denominators import NextToken, count_targets
from tests.helpers.gradient_noise import averages
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, weights


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train as `job` says: world, csv, tokens (whether it is a mean over tokens), limit (None: no limit)."""
    torch.set_num_threads(1)
    strategy: Strategy | str = DDPStrategy(process_group_backend="gloo") if job["world"] > 1 else "auto"
    module = NextToken("mask", torch.float64) if job["tokens"] else Plain(network())
    batches = BatchSizeScheduler(
        MultiStep(size=8, milestones=[0.6, 1.5], factor=3, last="carry"),
        schedules.Cosine(),
        max_micro_batch_size=job["limit"],
        seed=2,
        weight=count_targets if job["tokens"] else None,
        split_every=1,
        check_cuts=False,
    )
    callback = GradientNoiseScale(path=job["csv"])
    folder = Path(job["csv"]).parent
    fit(module, batches, callback, strategy=strategy, devices=job["world"], use_distributed_sampler=False, default_root_dir=folder)
    return {"averages": averages(callback), "weights": weights(module).tolist()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in json.loads(sys.argv[1]):
        print("RESULT " + json.dumps(main(each)))

"""Run one rank of trainings that measure their curvature, with gloo; prints a line of JSON for each. Started by test_sharpness.py."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy

from noisescale.callbacks import BatchSizeScheduler, Sharpness
from noisescale.files import read_rows
from noisescale.plans.strategies import Fixed
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, weights

OPTIONS: dict[str, Any] = {"examples": 50, "chunk_size": 20, "batches": 3, "subspace": 4, "radii": [1e-3], "iterations": 3}


def main(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    world = job["world"]
    strategy: Strategy | str = DDPStrategy(process_group_backend="gloo") if world > 1 else "auto"
    batches = BatchSizeScheduler(Fixed(size=20), check_cuts=False)
    module = Plain(network())
    sharpness = [Sharpness(every_n_epochs=1, path=job["csv"], **OPTIONS)] if job["csv"] else []
    fit(module, batches, *sharpness, strategy=strategy, devices=world, use_distributed_sampler=False, max_epochs=2)
    return {"weights": weights(module).tolist(), "rows": read_rows(Path(job["csv"])) if job["csv"] else []}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in json.loads(sys.argv[1]):
        print("RESULT " + json.dumps(main(each)), flush=True)

"""Run one rank of trainings whose plans are decided on the way; prints a line of JSON for each. Started by a test, not a test itself."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy

from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale, NoiseScaleMonitor
from noisescale.plans import Dual, FollowNoise, GrowOnPlateau
from noisescale.plans.strategies import BatchStrategy
from noisescale.schedules import Constant, Plateau, Schedule
from tests.helpers.regression import Validated, network
from tests.helpers.trainings import fit, weights

CASES: dict[str, tuple[BatchStrategy, Schedule]] = {
    "gns": (FollowNoise(5, min_size=4, max_size=40, last="carry"), Constant()),
    "plateau": (GrowOnPlateau(5, factor=2, max_size=40, patience=0, threshold=0.2, last="carry"), Constant()),
    "dual": (Dual(5, rule="sgd", max_size=40), Plateau(patience=0, threshold=0.2, factor=0.4)),
}


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train as `job` says: case, world, csv."""
    torch.set_num_threads(1)
    strategy: Strategy | str = DDPStrategy(process_group_backend="gloo") if job["world"] > 1 else "auto"
    module, batches = Validated(network()), BatchSizeScheduler(*CASES[job["case"]], seed=3, split_every=1, check_cuts=False)
    callbacks = [batches, GradientNoiseScale(path=False), NoiseScaleMonitor(job["csv"])]
    folder = Path(job["csv"]).parent
    options = {"strategy": strategy, "devices": job["world"], "use_distributed_sampler": False, "default_root_dir": folder}
    fit(module, *callbacks, max_epochs=5, **options)
    assert batches.loader is not None
    return {"observed": batches.loader.observed, "weights": weights(module).tolist()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in json.loads(sys.argv[1]):
        print("RESULT " + json.dumps(main(each)))

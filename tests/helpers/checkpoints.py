"""Checkpoints that are written without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, SafeCheckpointIO
from noisescale.plans import strategies as batching
from tests.helpers.regression import Validated
from tests.helpers.trainings import weights

WEIGHTS = torch.arange(3000.0)
CONTENTS = {"weights": WEIGHTS, "step": torch.tensor(7), "optimizer_states": [{"lr": 0.1}], "loops": {"fit": [1, 2, 3]}}


def checkpoint(update: int) -> dict[str, Any]:
    return {**CONTENTS, "global_step": update}


def saved(path: Path, *updates: int, io: SafeCheckpointIO | None = None) -> Path:
    """Save checkpoints one after another to the same path."""
    io = io or SafeCheckpointIO(patience=0)
    for update in updates:
        io.save_checkpoint(checkpoint(update), path)
    return path


class Erratic(Validated):
    """Validated by a number that jumps up and down with the weights, so that the best is now an old one and now the newest."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("score", (weights(self).sum() * 89) % 1.0)


def planned() -> BatchSizeScheduler:
    strategy = batching.MultiStep(size=11, milestones=[0.7, 1.6], factor=2, last="partial")
    return BatchSizeScheduler(strategy, schedules.Cosine(), max_micro_batch_size=4, seed=5)

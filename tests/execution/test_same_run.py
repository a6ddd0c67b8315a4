"""A run can be resumed only with the choices that it was saved with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisescale.callbacks import BatchSizeScheduler, SameRun
from noisescale.errors import ConfigError
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.parametrize(("key", "now"), [("seed", 1), ("optimizer.lr", 0.5), ("optimizer.nesterov", True)])
def test_a_run_resumed_with_another_choice_is_refused(tmp_path: Path, key: str, now: object) -> None:
    choices: dict[str, Any] = {"seed": 0, "optimizer.lr": 0.1}
    path = tmp_path / "a.ckpt"
    fit(Plain(network()), BatchSizeScheduler(batching.Full()), SameRun(choices)).save_checkpoint(path)
    assert torch.load(path, weights_only=True)["callbacks"]["SameRun"] == {"choices": choices}
    reason = f"the checkpoint was trained with {key}={choices[key]}" if key in choices else "is not a key of the checkpoint"
    with pytest.raises(ConfigError, match=f"{key}={now}: {reason}"):
        fit(Plain(network()), BatchSizeScheduler(batching.Full()), SameRun({**choices, key: now}), ckpt_path=path)
    fit(Plain(network()), BatchSizeScheduler(batching.Full()), SameRun(choices), ckpt_path=path, max_epochs=4)

"""epochs.csv has what was measured in the epoch, and a resumed run is the run that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisescale.callbacks import BatchSizeScheduler, EpochRecorder, SameRun
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Plain, Validated, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def test_a_row_per_epoch_with_totals_and_rates(tmp_path: Path) -> None:
    fit(Validated(network()), BatchSizeScheduler(batching.Fixed(size=10)), EpochRecorder(tmp_path / "epochs.csv"))
    rows = read_rows(tmp_path / "epochs.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["updates"]) for row in rows] == [11, 22, 33]
    assert [int(row["examples_seen"]) for row in rows] == [N, 2 * N, 3 * N]
    assert all(float(row["seconds"]) > 0 and float(row["examples_per_second"]) > 0 for row in rows)
    assert len({row["val/loss"] for row in rows}) == 3


def test_an_epoch_without_validation_has_no_validation_figures(tmp_path: Path) -> None:
    recorder = EpochRecorder(tmp_path / "epochs.csv")
    fit(Validated(network()), BatchSizeScheduler(batching.Fixed(size=10)), recorder, max_epochs=5, check_val_every_n_epoch=2)
    assert [bool(row["val/loss"]) for row in read_rows(tmp_path / "epochs.csv")] == [False, True, False, True, False]


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

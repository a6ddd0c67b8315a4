"""epochs.csv holds the measurements of each epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisescale.callbacks import BatchSizeScheduler, EpochRecorder
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Validated, network
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

"""A run whose loss is nan or inf stops in that update and keeps what it wrote before; other runs are not affected."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor, StopOnDivergence, TrainingDiverged
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_a_loss_that_is_no_number_stops_the_run_in_its_update(tmp_path: Path, value: float, at: int) -> None:
    class Breaks(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * (value if len(self.seen) == 3 * at + 2 else 1.0)  # in the second of the three micro-batches of the update

    module = Breaks(network())
    with pytest.raises(TrainingDiverged) as caught:
        fit(
            module,
            StopOnDivergence(),
            NoiseScaleMonitor(tmp_path / "steps.csv"),
            BatchSizeScheduler(batching.Fixed(size=10, last="drop"), max_micro_batch_size=4, check_cuts=False),
        )
    assert caught.value.step == at
    assert caught.value.last_good_step == (at - 1 if at else None)
    assert "\n" not in str(caught.value)
    assert f"at update {at}; " in str(caught.value)
    rows = read_rows(tmp_path / "steps.csv")
    assert len(rows) >= at
    assert all(math.isfinite(float(row["loss"])) for row in rows[:at])


def test_a_finite_run_is_left_alone() -> None:
    assert fit(Plain(network()), StopOnDivergence(), BatchSizeScheduler(batching.Fixed(size=10))).global_step == 33

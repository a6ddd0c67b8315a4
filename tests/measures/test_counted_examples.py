"""NoiseScaleMonitor counts the examples that went through, whoever steps or leaves some out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.data.images import as_is
from noisescale.execution.batched import BatchedDataset
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class SteppingByHand(pl.LightningModule):
    """Manual optimization, with a step after every second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.net(batch[0]).square().mean())
        if batch_idx % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_step_by_hand_counts_all_batches_since_the_last_one(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.ones(64, 2)), batch_size=8)
    fit(SteppingByHand(), NoiseScaleMonitor(tmp_path / "steps.csv"), loader=loader, max_epochs=1)
    rows = read_rows(tmp_path / "steps.csv")
    assert [int(row["examples_seen"]) for row in rows] == [0, 16, 32, 48]
    assert {(row["effective_batch_size"], row["micro_batch_size"], row["accumulate_grad_batches"]) for row in rows} == {("16", "8", "2")}
    assert float(rows[0]["g"]) == pytest.approx(0.1 * (64 / 16 - 1))


class SkipsEverySeventh(Regression):
    """Gives fewer examples than requested, like a data set that skips files which it cannot read."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices if index % 7]


@pytest.mark.parametrize("workers", [0, 2])
def test_b_is_the_count_of_examples_that_the_data_set_gave_not_the_plans(tmp_path: Path, workers: int) -> None:
    module = Plain(network())
    scheduler = BatchSizeScheduler(batching.Fixed(size=20), max_micro_batch_size=10)
    with pytest.warns(UserWarning, match=r"the data set gave \d+ examples for a micro-batch of \d+; ") as said:
        fit(module, scheduler, NoiseScaleMonitor(tmp_path / "steps.csv"), data=SkipsEverySeventh(), workers=workers)
    assert len([each for each in said if "the data set gave" in str(each.message)]) == 1
    rows = read_rows(tmp_path / "steps.csv")
    given = [sum(map(len, module.seen[2 * k : 2 * k + 2])) for k in range(5)]  # the first pass, without its last window
    assert [int(row["effective_batch_size"]) for row in rows[:5]] == given
    assert given != [20] * 5
    assert [int(row["examples_seen"]) for row in rows[:6]] == [sum(given[:k]) for k in range(6)]
    assert [float(row["g"]) for row in rows[:5]] == pytest.approx([0.1 * (N / b - 1) for b in given], rel=1e-15)
    assert sum(int(row["effective_batch_size"]) for row in rows) == sum(map(len, module.seen)) == 3 * (N - len(range(0, N, 7)))


class NoneForEverySeventh(Regression):
    """Gives None for an example it cannot read, for a collate function to leave out."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index) if index % 7 else None


def without_none(examples: list[Any]) -> Any:
    return default_collate([example for example in examples if example is not None])


class TakesAllButEverySeventh(BatchedDataset):
    def __init__(self) -> None:
        self.data = Regression()

    def __len__(self) -> int:
        return N

    def take(self, indices: Tensor) -> Any:
        kept = indices[indices % 7 > 0]
        return self.data.x[kept], self.data.y[kept], kept


@pytest.mark.parametrize("dataset", [NoneForEverySeventh(), TakesAllButEverySeventh()], ids=["None", "take"])
@pytest.mark.parametrize("workers", [0, 1])
def test_examples_that_collating_or_a_batched_data_set_leaves_out_are_not_counted(tmp_path: Path, dataset: Any, workers: int) -> None:
    module = Plain(network())
    collate = without_none if isinstance(dataset, NoneForEverySeventh) else as_is
    loader = DataLoader(dataset, batch_size=5, shuffle=True, collate_fn=collate, num_workers=workers)
    scheduler = BatchSizeScheduler(batching.Fixed(size=20), max_micro_batch_size=10)
    with pytest.warns(UserWarning, match=r"\d+ examples for a micro-batch of \d+; "):
        fit(module, scheduler, NoiseScaleMonitor(tmp_path / "steps.csv"), loader=loader)
    rows = read_rows(tmp_path / "steps.csv")
    given = [sum(map(len, module.seen[2 * k : 2 * k + 2])) for k in range(5)]
    assert [int(row["effective_batch_size"]) for row in rows[:5]] == given != [20] * 5

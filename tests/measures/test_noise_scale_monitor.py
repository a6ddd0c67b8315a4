"""NoiseScaleMonitor writes what really happened, and changes nothing. Some tests use a text model that does not depend on noisescale."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from noisescale import schedules
from noisescale.app.config import build
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from noisescale.plans.duality import Matched
from noisescale.plans.plan import Plan
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.repository import CONF
from tests.helpers.trainings import fit, ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

TEXT = (
    "the rate and the batch are two ways to the same noise: divide the one or multiply the other, and the walk of the weights "
    "is, to first order, the same walk; with fewer steps when the batch grows, and with the same number of passes over the data. "
) * 2
LENGTH = 12


class Text(Dataset[dict[str, Tensor]]):
    """Windows of characters, each with the character that follows."""

    def __init__(self) -> None:
        self.codes = torch.tensor([ord(character) % 64 for character in TEXT])

    def __len__(self) -> int:
        return len(TEXT) - LENGTH

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"text": self.codes[index : index + LENGTH], "next": self.codes[index + LENGTH]}


class TextData(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(Text(), batch_size=16, shuffle=True)


class TextModel(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.embedding, self.recurrent, self.out = nn.Embedding(64, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 64)
        self.losses: list[tuple[int, float]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        states, _ = self.recurrent(F.dropout(self.embedding(batch["text"]), 0.1))
        loss = F.cross_entropy(self.out(states[:, -1]), batch["next"])
        self.losses.append((len(batch["next"]), float(loss.detach())))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


def fit_text(*callbacks: pl.Callback, **options: Any) -> TextModel:
    model = TextModel()
    pl.seed_everything(4, verbose=False)
    quiet_trainer(*callbacks, **{"max_epochs": 2, **options}).fit(model, datamodule=TextData())
    return model


def test_training_with_the_monitor_alone_is_bitwise_training_without(tmp_path: Path) -> None:
    assert torch.equal(weights(fit_text(NoiseScaleMonitor(tmp_path / "steps.csv"))), weights(fit_text()))
    assert torch.equal(
        weights(fit_text(NoiseScaleMonitor(tmp_path / "steps.csv"), accumulate_grad_batches=3)),
        weights(fit_text(accumulate_grad_batches=3)),
    )


def test_in_a_plain_trainer_it_counts_what_went_through(tmp_path: Path) -> None:
    """Lightning's own accumulation: 3 micro-batches of 16, then fewer at the end of the epoch."""
    model = fit_text(NoiseScaleMonitor(tmp_path / "steps.csv"), accumulate_grad_batches=3)
    rows = read_rows(tmp_path / "steps.csv")
    n = len(Text())
    micro = math.ceil(n / 16)
    assert len(rows) == 2 * math.ceil(micro / 3)
    seen = 0
    for step, row in enumerate(rows):
        assert int(row["step"]) == step
        assert int(row["examples_seen"]) == seen
        b, lr = int(row["effective_batch_size"]), float(row["lr"])
        assert float(row["g"]) == pytest.approx(lr * (n / b - 1), rel=1e-15, abs=1e-15)
        assert float(row["epoch"]) == pytest.approx(seen / n)
        seen += b
    assert seen == 2 * n
    assert {int(row["accumulate_grad_batches"]) for row in rows[:-1]} <= {1, 2, 3}
    first = model.losses[:3]
    assert float(rows[0]["loss"]) == pytest.approx(sum(size * loss for size, loss in first) / 48, rel=1e-6)


def test_with_a_plan_every_row_is_the_plans_row(tmp_path: Path) -> None:
    scheduler = BatchSizeScheduler(batching.Linear(size=8, max_size=100, epochs=2), schedules.Cosine(), max_micro_batch_size=16)
    model = fit_text(NoiseScaleMonitor(tmp_path / "steps.csv", write_every=3), scheduler)
    rows, updates, micro = read_rows(tmp_path / "steps.csv"), list(scheduler.plan), iter(model.losses)
    assert len(rows) == len(updates)
    for row, update in zip(rows, updates, strict=True):
        assert int(row["effective_batch_size"]) == update.effective_batch_size
        assert int(row["accumulate_grad_batches"]) == update.accumulate_grad_batches
        assert float(row["lr"]) == 0.5 * update.lr_factor
        assert float(row["g"]) == scheduler.plan.noise(update, 0.5)
        assert float(row["epoch"]) == update.epoch
        parts = [next(micro) for _ in range(update.accumulate_grad_batches)]
        assert sum(size for size, _ in parts) == update.effective_batch_size
        assert int(row["micro_batch_size"]) == max(size for size, _ in parts)
        assert float(row["loss"]) == pytest.approx(sum(size * loss for size, loss in parts) / update.effective_batch_size, rel=1e-5)


# Options of conf/batch, with sizes for N = 103. The duals differ in growth, cap, rule and match.
OPTIONS = {
    "dual": ["batch.size=4", "batch.max_size=40"],
    "hybrid": ["batch.size=4", "batch.max_size=8"],
    "split": ["batch.size=4", "batch.max_size=40"],
    "seesaw": ["batch.size=4", "batch.max_size=40"],
    "cyclic": ["batch.size=4", "batch.step_size_up=0.5"],
    "multistep": ["batch.size=4", "batch.milestones=[1,2]"],
}


@pytest.fixture(scope="module")
def strategies() -> dict[str, batching.BatchStrategy]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {
            name: build(compose("config", ["output_dir=somewhere", f"batch={name}", *sizes]), "batch") for name, sizes in OPTIONS.items()
        }


@pytest.mark.cases(8)
@pytest.mark.filterwarnings("ignore:.* which is not the noise of .*")
@pytest.mark.parametrize("match_last", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("option", OPTIONS)
def test_with_a_dual_every_row_is_the_row_of_a_plan_made_before(
    option: str, optimizer: Any, match_last: bool, strategies: dict[str, batching.BatchStrategy], tmp_path: Path
) -> None:
    strategy = replace(strategies[option], match_last=match_last)
    schedule = schedules.Warmup(0.5, 0.1).before(schedules.Cosine(), 3)
    settled = replace(strategy, rule="sgd") if isinstance(strategy, Matched) and strategy.rule is None else strategy
    plan = Plan(schedule, settled, N, 3, max_micro_batch_size=7)
    scheduler = BatchSizeScheduler(strategy, schedule, max_micro_batch_size=7)
    trainer = fit(Plain(network(), lambda parameters: optimizer(parameters, lr=0.05)), NoiseScaleMonitor(tmp_path / "steps.csv"), scheduler)
    assert isinstance(strategy, Matched) == (option != "multistep")
    assert scheduler.plan.strategy == settled
    rows = read_rows(tmp_path / "steps.csv")
    assert len(rows) == trainer.global_step == plan.total_updates()
    sizes = set()
    for row, update in zip(rows, plan, strict=True):
        size, rate = update.effective_batch_size, 0.05 * update.lr_factor
        sizes.add(size)
        assert (int(row["step"]), int(row["examples_seen"])) == (update.start.step, update.start.examples_seen)
        assert (float(row["epoch"]), float(row["lr"])) == (update.epoch, rate)
        assert int(row["effective_batch_size"]) == size
        assert int(row["micro_batch_size"]) == plan.micro_batch_size(update) == math.ceil(size / math.ceil(size / 7))
        assert int(row["accumulate_grad_batches"]) == update.accumulate_grad_batches == math.ceil(size / 7)
        assert float(row["g"]) == pytest.approx(rate * (N - size) / size, rel=1e-12, abs=0)
        assert float(row["g"]) == pytest.approx(plan.noise(update, 0.05), rel=1e-12, abs=0)
    assert len(sizes) > 2, "the batch does not change, so the test would prove little"
    assert max(sizes) > 7, "nothing is accumulated"


@pytest.mark.parametrize("option", ["dual", "hybrid", "split"])
def test_a_dual_run_has_the_noise_of_the_run_it_stands_in_for(
    option: str, strategies: dict[str, batching.BatchStrategy], tmp_path: Path
) -> None:
    """g = w(t) s(t) g0 in every update, as logged and not as planned, with B0 = 4 and N = 103."""
    schedule = schedules.Warmup(0.5, 0.1).before(schedules.Cosine(), 3)
    strategy = replace(strategies[option], match_last=True)
    fit(Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv"), BatchSizeScheduler(strategy, schedule))
    for row in read_rows(tmp_path / "steps.csv"):
        epoch = float(row["epoch"])
        factor = min(1.0, 0.1 + 0.9 * epoch / 0.5) * (1 + math.cos(math.pi * epoch / 3)) / 2
        assert float(row["g"]) == pytest.approx(factor * 0.1 * (N - 4) / 4, rel=1e-12)


def test_it_says_the_batch_in_words_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    monkeypatch.setattr("noisescale.measures.noise_scale.rank_zero_info", said.append)
    fit(Plain(network()), NoiseScaleMonitor(tmp_path / "a.csv"), BatchSizeScheduler(batching.Fixed(size=32), max_micro_batch_size=8))
    fit(Plain(network()), NoiseScaleMonitor(tmp_path / "b.csv"))
    g = [0.1 * (N / size - 1) for size in (32, 7)]
    assert said == [
        f"effective 32 = 8 micro x 4 accumulate x 1 device; N {N}; lr 0.1; g {g[0]:.4g}; on the CPU",
        f"effective 7 = 7 micro x 1 accumulate x 1 device; N {N}; lr 0.1; g {g[1]:.4g}; on the CPU",
    ]


def test_tensorboard_has_each_tag_over_updates_and_over_examples(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(Plain(network()), NoiseScaleMonitor(), BatchSizeScheduler(batching.Fixed(size=10)), logger=TensorBoardLogger(tmp_path, "", ""))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = {"train/loss", "lr", "batch/effective", "batch/micro", "batch/accumulate", "noise/g", "noise/g_momentum"}
    assert tags | {f"by_examples/{tag}" for tag in tags} <= set(events.Tags()["scalars"])
    rows = read_rows(tmp_path / "steps.csv")
    for tag, column in (("noise/g", "g"), ("lr", "lr"), ("batch/effective", "effective_batch_size"), ("train/loss", "loss")):
        for prefix, clock in (("", "step"), ("by_examples/", "examples_seen")):
            written = events.Scalars(prefix + tag)
            assert [event.step for event in written] == [int(row[clock]) for row in rows]
            assert [event.value for event in written] == pytest.approx([float(row[column]) for row in rows], rel=1e-6)
    with_momentum = [event.value for event in events.Scalars("noise/g_momentum")]
    assert with_momentum == pytest.approx([10 * float(row["g"]) for row in rows], rel=1e-6)


def test_other_loggers_get_the_same_numbers(tmp_path: Path) -> None:
    fit(
        Plain(network()),
        NoiseScaleMonitor(tmp_path / "steps.csv"),
        BatchSizeScheduler(batching.Fixed(size=10)),
        logger=CSVLogger(tmp_path, "", ""),
    )
    logged, rows = read_rows(tmp_path / "metrics.csv"), read_rows(tmp_path / "steps.csv")
    assert [float(row["noise/g"]) for row in logged] == [float(row["g"]) for row in rows]
    assert [float(row["examples_seen"]) for row in logged] == [float(row["examples_seen"]) for row in rows]


def test_n_must_be_known(tmp_path: Path) -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([Regression()[index] for index in range(20)])

    loader = DataLoader(Endless(), batch_size=5)
    with pytest.raises(ConfigError, match=r"train_dataloader=Endless: has no number of examples; give NoiseScaleMonitor\(num_examples"):
        fit(Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv"), loader=loader)
    fit(Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv", num_examples=20), loader=loader, max_epochs=1)
    assert [float(row["g"]) for row in read_rows(tmp_path / "steps.csv")] == pytest.approx([0.1 * (20 / 5 - 1)] * 4)

"""`max_micro_batch_size="auto"`: the training is the one with the number that was found, and a run that goes on does not search again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.errors import ConfigError
from noisescale.execution import micro_batch_limit, micro_batch_search
from noisescale.execution.batched import BatchedDataset
from noisescale.plans.strategies import BatchStrategy, Fixed, Linear
from tests.helpers.hungry import ERRORS, Hungry
from tests.helpers.processes import results_of_ranks
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Search on the CPU, too; returns the sizes that are tried."""
    tried: list[int] = []
    fits = micro_batch_search.fits

    def counted(rehearsal: Any, batch: Any, size: int) -> bool:
        tried.append(size)
        return fits(rehearsal, batch, size)

    monkeypatch.setattr(micro_batch_limit, "has_memory_of_its_own", lambda device: True)
    monkeypatch.setattr(micro_batch_limit, "fits", counted)
    return tried


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(micro_batch_limit, "rank_zero_info", lines.append)
    return lines


class Small(Plain):
    """Runs out of memory above `capacity` examples; it logs, keeps its losses, and has dropout and batch norm."""

    def __init__(self, capacity: int = 11, norm: bool = True) -> None:
        super().__init__(network(dropout=0.2, norm=norm))
        self.capacity = capacity
        self.kept: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(batch[0]) > self.capacity:
            raise ERRORS["cuda"]()
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        self.kept.append(loss.detach())
        return loss


class Batched(BatchedDataset):
    """The same examples, in whole batches."""

    def __init__(self) -> None:
        self.data = Regression()

    def __len__(self) -> int:
        return N

    def take(self, indices: Tensor) -> Any:
        return self.data.x[indices], self.data.y[indices], indices


def planned(limit: int | str | None, strategy: BatchStrategy | None = None, **options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(
        strategy or Fixed(size=32), schedules.Cosine(), max_micro_batch_size=limit, seed=5, check_cuts=False, **options
    )


class Saved(pl.Callback):
    """Saves a checkpoint after update `at`."""

    def __init__(self, at: int, path: Path) -> None:
        self.at, self.path = at, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(
    ("data", "workers", "precision"),
    [
        (Regression, 0, "64-true"),
        (Batched, 0, "64-true"),
        pytest.param(Regression, 2, "64-true", marks=pytest.mark.slow),
        pytest.param(Regression, 0, "bf16-mixed", marks=pytest.mark.slow),
        pytest.param(Regression, 0, "bf16-true", marks=pytest.mark.slow),
    ],
)
def test_the_training_is_bitwise_that_with_the_number_given_by_hand(
    data: type[Dataset[Any]], workers: int, precision: Any, searched: list[int], said: list[str]
) -> None:
    modules, drawn, metrics, states = [], [], [], []

    class Draws(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            drawn.append(float(torch.rand(())))

    for limit in ("auto", 9):
        pl.seed_everything(5, verbose=False)
        module = Small()
        loader = DataLoader(
            data(), batch_size=7, shuffle=True, num_workers=workers, collate_fn=(lambda batch: batch) if data is Batched else None
        )
        batches = planned(limit)
        trainer = fit(module, batches, Draws(), loader=loader, precision=precision)
        assert batches.plan.max_micro_batch_size == 9
        modules.append(module)
        metrics.append(dict(trainer.callback_metrics))
        states.append(str(trainer.optimizers[0].state_dict()))
    assert 9 in searched
    assert max(searched) > 11
    first, second = modules
    assert torch.equal(weights(first), weights(second))
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, other)
    assert drawn[0] == drawn[1]
    assert metrics[0] == metrics[1]
    assert states[0] == states[1]
    assert first.seen == second.seen
    assert all(torch.equal(one, other) for one, other in zip(first.kept, second.kept, strict=True))
    assert len(said) == 1
    assert said[0].startswith("max_micro_batch_size=auto: 9; 11 fitted, less a margin of 10 % (")


def test_all_that_an_update_needs_fits(searched: list[int], said: list[str]) -> None:
    batches = planned("auto")
    fit(Small(capacity=99), batches, max_epochs=1)
    assert batches.plan.max_micro_batch_size == 32
    assert max(searched) == 36  # 32 and a margin of 10 %
    assert 32 in searched
    assert said[0].startswith("max_micro_batch_size=auto: 32, as many as an update gives a device, fit (")


def test_no_margin_and_a_batch_that_grows(searched: list[int]) -> None:
    batches = planned("auto", Linear(size=4, max_size=40, epochs=3), micro_batch_margin=0)
    module = Small()
    fit(module, batches)
    assert batches.plan.max_micro_batch_size == 11
    sizes = [update.effective_batch_size for update in batches.plan]
    assert max(sizes) > 30
    assert sum(map(len, module.seen)) == sum(sizes)
    assert max(map(len, module.seen)) <= 11


def test_ghost_batches_stay_whole(searched: list[int]) -> None:
    batches = planned("auto", micro_batch_multiple=4)
    fit(Small(norm=False), batches, max_epochs=1)
    assert batches.plan.max_micro_batch_size == 4  # 8 fitted, and 90 % of that is one ghost batch
    assert set(searched) <= {4, 8, 12, 16}


@pytest.mark.parametrize("at", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_goes_on_uses_the_same_number_and_does_not_search(at: int, searched: list[int], said: list[str], tmp_path: Path) -> None:
    whole = Small()
    fit(whole, planned("auto"), Saved(at, tmp_path / "in.ckpt"))
    searched.clear()
    resumed, batches = Small(), planned("auto")
    fit(resumed, batches, ckpt_path=tmp_path / "in.ckpt")
    assert searched == []
    assert len(said) == 1
    assert batches.limit.value == 9
    assert torch.equal(weights(resumed), weights(whole))
    other = planned(3)
    fit(Small(), other, ckpt_path=tmp_path / "in.ckpt")
    assert other.plan.max_micro_batch_size == 3
    assert searched == []


def test_another_training_searches_again(searched: list[int]) -> None:
    batches = planned("auto")
    fit(Small(), batches, max_epochs=1)
    searched.clear()
    fit(Small(capacity=5), batches, max_epochs=1)
    assert searched
    assert batches.plan.max_micro_batch_size == 4


def test_the_cpu_sets_no_limit_and_says_so(said: list[str]) -> None:
    batches = planned("auto")
    fit(Small(capacity=99), batches, max_epochs=1)
    assert batches.plan.max_micro_batch_size is None
    assert said == ["note: max_micro_batch_size=auto sets no limit on the CPU, which has no memory of its own that could be searched"]


class CannotBeCopied(Plain):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("cannot be copied")


class StepsItself(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.optimizers()
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (lambda: Small(capacity=2), "not even the smallest micro-batch fits on cpu; use a smaller model, or another device"),
        (lambda: CannotBeCopied(network()), "cannot be searched (cannot be copied); give a number, or null for no limit"),
        (
            lambda: StepsItself(network()),
            "cannot be searched (training_step or a hook uses trainer.strategy._lightning_optimizers, which is ",
        ),
    ],
)
def test_what_cannot_be_found_is_one_line(module: Any, line: str, searched: list[int]) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(module(), planned("auto"))
    assert str(caught.value).startswith(f"max_micro_batch_size=auto: {line}")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"limit": "Auto"},
            'max_micro_batch_size=Auto: must be a whole number of examples, at least 1; "auto" for the most that fit, None ',
        ),
        ({"limit": True}, "max_micro_batch_size=True: must be a whole number of examples, at least 1; "),
        ({"limit": "auto", "micro_batch_margin": 1.0}, "micro_batch_margin=1.0: must be a finite number in [0, 1)"),
    ],
)
def test_bad_arguments_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**options)
    assert str(caught.value).startswith(line)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`.*")
def test_a_module_that_makes_its_own_optimizer(searched: list[int]) -> None:
    batches = planned("auto", Fixed(size=64))
    data = torch.utils.data.TensorDataset(torch.ones(100, 3), torch.zeros(100))
    fit(Hungry(limit=20), batches, data=data, max_epochs=1)
    assert batches.limit.value == 18


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start.*")
def test_the_network_is_in_the_mode_of_the_training(searched: list[int]) -> None:
    """A frozen batch norm stays frozen, and needs no two examples."""
    module = Small(capacity=1)
    norm: Any = next(layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d))
    norm.eval()
    batches = planned("auto")
    fit(module, batches, max_epochs=1)
    assert batches.limit.value == 1
    assert not norm.training


@pytest.mark.slow
def test_all_processes_take_what_fits_on_each() -> None:
    found = results_of_ranks("tests.helpers.memory_job", [{"world": 2, "capacities": [30, 11]}, {"world": 2, "capacities": [99, 99]}], 2)
    assert [[result["limit"] for result in job] for job in found] == [[9, 9], [16, 16]]
    for job in found:
        assert job[0]["tried"] == job[1]["tried"]
        assert job[0]["weights"] == job[1]["weights"] == job[0]["by hand"]

"""Memory that really runs out: the search for the largest micro-batch, and a training that goes on. Skipped where there is no GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor, SaveOnOutOfMemory
from noisescale.execution import largest_micro_batch
from noisescale.execution.out_of_memory import fault_of
from noisescale.files import read_rows
from noisescale.plans.strategies import BatchStrategy, Fixed, MultiStep
from tests.helpers.trainings import ignored, quiet_trainer, weights

pytestmark = [
    *(pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

N, LAYERS, COPIES, WIDTH = 600, 8, 512, 64
PER_EXAMPLE = LAYERS * COPIES * WIDTH * 4
"""Bytes of the activations that a backward pass needs, at least: 1 MiB."""


class Deep(pl.LightningModule):
    """Few weights, and activations of more than 1 MiB for each example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = batch[0].unsqueeze(1) * torch.linspace(0.5, 1.5, COPIES, device=self.device)[:, None]
        error: Tensor = self.net(x).mean(1) - batch[1]
        return error.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, WIDTH, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :1].sin()), batch_size=50)


def free() -> None:
    """Give back what errors before have kept: their frames hold activations."""
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def memory() -> Iterator[None]:
    """So little memory that more than 100 examples fit at once, and fewer than 200."""
    free()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(220 * PER_EXAMPLE / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    free()


def trained(
    limit: int | str | None, strategy: BatchStrategy, folder: Path, ckpt_path: Path | None = None, epochs: int = 3
) -> tuple[Deep, BatchSizeScheduler]:
    module = Deep()
    batches = BatchSizeScheduler(strategy, schedules.Cosine(), max_micro_batch_size=limit, seed=5, check_cuts=False)
    callbacks = [batches, NoiseScaleMonitor(folder / "steps.csv"), SaveOnOutOfMemory(folder / "last.ckpt")]
    quiet_trainer(*callbacks, accelerator="gpu", max_epochs=epochs).fit(module, loader(), ckpt_path=ckpt_path)
    return module, batches


@pytest.mark.usefixtures("memory")
def test_the_size_that_is_found_runs_and_the_next_power_of_it_does_not() -> None:
    module = Deep().cuda()
    before = weights(module)
    batch = [torch.randn(1, WIDTH, device="cuda"), torch.randn(1, 1, device="cuda")]
    size = largest_micro_batch(module, lambda n: [part.expand(n, -1) for part in batch], at_most=N, margin=0.1)
    whole = largest_micro_batch(module, lambda n: [part.expand(n, -1) for part in batch], at_most=N, margin=0.0)
    print(f"found {size}, without a margin {whole}")
    assert 60 < size < whole < 200
    assert size == pytest.approx(0.9 * whole, abs=2)
    assert torch.equal(weights(module), before)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    module.training_step([part.expand(size, -1) for part in batch], 0).backward()
    optimizer.step()
    with pytest.raises(torch.OutOfMemoryError):
        module.training_step([part.expand(2 * whole, -1) for part in batch], 0).backward()


@pytest.mark.usefixtures("memory")
def test_auto_trains_as_the_number_that_it_finds(tmp_path: Path) -> None:
    found, batches = trained("auto", Fixed(size=300), tmp_path / "auto")
    assert batches.loader is not None
    limit = batches.loader.plan.max_micro_batch_size
    print(f"max_micro_batch_size=auto: {limit}")
    assert isinstance(limit, int)
    assert 60 < limit < 200
    typed, _ = trained(limit, Fixed(size=300), tmp_path / "typed")
    assert torch.equal(weights(found), weights(typed))
    free()
    with pytest.raises(torch.OutOfMemoryError):
        trained(None, Fixed(size=300), tmp_path / "none")


@pytest.mark.usefixtures("memory")
def test_a_training_that_runs_out_goes_on_with_half_the_micro_batch(tmp_path: Path) -> None:
    """B is 50, then 200, which does not fit: half of it does."""
    growing = MultiStep(size=50, milestones=[1], factor=4)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trained(None, growing, tmp_path / "part")
    fault = fault_of(caught.value)
    assert fault is not None
    print(f"{fault}")
    assert (fault.place, fault.size, fault.half) == ("micro-batch", 200, 100)
    del caught
    free()
    resumed, _ = trained(100, growing, tmp_path / "part", tmp_path / "part" / "last.ckpt")
    whole, _ = trained(100, growing, tmp_path / "whole")
    assert torch.equal(weights(resumed), weights(whole))
    assert read_rows(tmp_path / "part" / "steps.csv") == read_rows(tmp_path / "whole" / "steps.csv")

"""A plan on a GPU: the gradient of one big batch, in every precision, and a resumed run bit for bit. Skipped where there is no GPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, StopOnDivergence, TrainingDiverged
from noisescale.data.images import ImageDataset
from noisescale.files import read_rows
from noisescale.models import ResNet18
from noisescale.plans import strategies as batching
from tests.helpers.denominators import PROBLEMS, BigBatches, N, NextToken
from tests.helpers.front_door import checkpoint_of, results_of, run, run_dir
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored, weights

pytestmark = [
    *(pytest.mark.filterwarnings(line) for line in ignored),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

GROWING = batching.MultiStep(size=16, milestones=[1, 2], factor=3, max_size=N)
ROUNDINGS = 16
"""As in test_weighting.py: the bound of a relative error, in units of the machine precision."""


def scheduler(limit: int | None = 4, **options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(GROWING, schedules.Cosine(), max_micro_batch_size=limit, seed=2, **options)


def fit_on_gpu(module: pl.LightningModule, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return fit(module, *callbacks, accelerator="gpu", **options)


@pytest.mark.parametrize("limit", [64, 16, 4, 1])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_update_has_the_gradient_of_one_big_batch(dtype: torch.dtype, problem: str, limit: int) -> None:
    errors = BigBatches()
    fit_on_gpu(NextToken(problem, dtype), errors, scheduler(limit, weight=PROBLEMS[problem][1]))
    assert len(errors.errors) == 7 + 3 + 1
    print(f"{problem}, {dtype}, limit {limit}: {max(errors.errors):.1e}")
    assert max(errors.errors) <= ROUNDINGS * torch.finfo(dtype).eps


@pytest.mark.parametrize("times", [1.0, 1e6])
@pytest.mark.parametrize(("precision", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)])
def test_mixed_precision(precision: str, dtype: torch.dtype, times: float) -> None:
    """No gradient overflows, though the weights of the micro-batches are large and the scale is the scaler's own, 2^16."""
    _, weigh = PROBLEMS["token mean"]
    errors = BigBatches()
    trainer = fit_on_gpu(
        NextToken("token mean", torch.float32), errors, scheduler(weight=lambda batch: times * float(weigh(batch))), precision=precision
    )
    print(f"{precision}, weights times {times:g}: {max(errors.errors):.1e}")
    assert max(errors.errors) <= ROUNDINGS * torch.finfo(dtype).eps
    if precision == "16-mixed":
        assert isinstance(trainer.precision_plugin, MixedPrecision)
        assert trainer.precision_plugin.scaler is not None
        assert trainer.precision_plugin.scaler.get_scale() == 2.0**16


@pytest.mark.parametrize("at", [1, 2, 5, 28, 40])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_resumed_inside_an_update(tmp_path: Path, precision: str, at: int) -> None:
    """With dropout, whose masks a GPU draws from a generator of its own."""

    def module() -> Plain:
        return Plain(network(torch.float32, dropout=0.3))

    whole, resumed = module(), module()
    fit_on_gpu(whole, scheduler(), precision=precision)
    with pytest.raises(Stop):
        fit_on_gpu(module(), scheduler(), SaveAndDie(at, tmp_path / "in.ckpt"), precision=precision)
    fit_on_gpu(resumed, scheduler(), precision=precision, ckpt_path=tmp_path / "in.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_training_is_bitwise_the_same_with_the_check_of_cuts_and_without_it() -> None:
    modules = [Plain(network(torch.float32, dropout=0.3)) for _ in range(2)]
    for module, check in zip(modules, (True, False), strict=True):
        fit_on_gpu(module, scheduler(check_cuts=check))
    assert torch.equal(weights(modules[0]), weights(modules[1]))


def test_no_update_waits_for_the_gpu() -> None:
    """Between two updates of an epoch nothing is read from the GPU but what is there already."""
    data = ImageDataset(torch.zeros(64, 1, 4, 4, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64), with_indices=False)
    data = data.to(torch.device("cuda"))
    watch = StopOnDivergence()
    trainer: Any = SimpleNamespace(global_step=0, world_size=1, train_dataloader=None)
    module: Any = SimpleNamespace(device=torch.device("cuda"))
    watch.on_train_start(trainer, module)
    watch.on_train_batch_end(trainer, module, {"loss": torch.ones((), device="cuda")}, None, 0)
    try:
        with warnings.catch_warnings():  # the mode is a prototype, which it says
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        for step in range(1, 4):
            images, _ = data.take(torch.tensor([3, 1]))
            trainer.global_step = step
            watch.on_train_batch_end(trainer, module, {"loss": images.float().sum()}, None, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.global_step = 4
    watch.on_train_batch_end(trainer, module, {"loss": torch.tensor(float("nan"), device="cuda")}, None, 4)
    with pytest.raises(TrainingDiverged, match="update 3"):
        watch.on_train_epoch_end(trainer, module)


class Images(pl.LightningModule):
    """ResNet-18 on 512 random images, as one update."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet18(input_shape=(3, 32, 32), num_outputs=10, width=64, ghost_batch_size=None)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.randn(512, 3, 32, 32), torch.randint(0, 10, (512,))), batch_size=512)


def test_micro_batches_save_memory() -> None:
    """The activations are most of it, and an eighth of the examples has an eighth of them."""
    peaks = []
    for limit in (512, 64):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        batches = BatchSizeScheduler(batching.Fixed(size=512), max_micro_batch_size=limit, check_cuts=False)
        fit_on_gpu(Images(), batches, max_epochs=1)
        peaks.append(torch.cuda.max_memory_allocated())
    print(f"peak: {peaks[0] / 2**20:.0f} and {peaks[1] / 2**20:.0f} MiB")
    assert peaks[1] < 0.4 * peaks[0]


@pytest.mark.parametrize("words", [[], ["trainer.precision=16-mixed"], ["trainer.precision=bf16-mixed", "model=cnn"]])
def test_train_py_finds_the_gpu_and_resumes_bit_for_bit(tmp_path: Path, words: list[str]) -> None:
    typed = ["batch=dual", "scheduler=cosine", "epochs=4", "max_micro_batch_size=48", *words]
    for folder, more in (("whole", []), ("part", ["trainer.max_steps=40"])):
        outcome = run(*typed, *more, run_dir(tmp_path / folder))
        assert outcome.status == 0, outcome.err
        assert torch.cuda.get_device_name(0) in outcome.err
    resumed = run(*typed, f"ckpt_path={tmp_path}/part/checkpoints/last.ckpt", run_dir(tmp_path / "part"))
    assert resumed.status == 0, resumed.err
    assert results_of(tmp_path / "part")["test/acc"] == results_of(tmp_path / "whole")["test/acc"]
    assert read_rows(tmp_path / "part" / "steps.csv") == read_rows(tmp_path / "whole" / "steps.csv")
    saved = [checkpoint_of(tmp_path / folder)["state_dict"] for folder in ("whole", "part")]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])

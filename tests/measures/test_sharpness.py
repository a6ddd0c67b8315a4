"""The Sharpness callback: what it measures of a module, and that the training does not notice."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from noisescale.callbacks import BatchSizeScheduler, Checkpoint, Sharpness
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.measures.curvature import largest_eigenvalue
from noisescale.measures.loss_surface import LossSurface
from noisescale.plans.strategies import Fixed
from tests.helpers.processes import results_of_ranks
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

QUICK: dict[str, Any] = {"examples": 50, "chunk_size": 20, "batches": 3, "subspace": 4, "radii": [1e-3], "iterations": 2}


class Noisy(Plain):
    """Batch norm and dropout, and random numbers in the step: all that a measurement could disturb."""

    def __init__(self) -> None:
        super().__init__(network(torch.float32, dropout=0.3, norm=True))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = batch
        return F.mse_loss(self.net(x + 0.1 * torch.randn_like(x)), y)


def trained(
    path: Path | bool, *, planned: bool = True, workers: int = 0, options: dict[str, Any] | None = None
) -> tuple[pl.Trainer, pl.LightningModule]:
    """Two epochs, measured after each if there is a path."""
    torch.manual_seed(5)
    module = Noisy()
    callbacks: list[pl.Callback] = [BatchSizeScheduler(Fixed(size=14), max_micro_batch_size=7, check_cuts=False)] if planned else []
    callbacks += [Sharpness(every_n_epochs=1, path=path, **{**QUICK, **(options or {})})] if path else []
    return fit(module, *callbacks, data=Regression(torch.float32), workers=workers, max_epochs=2), module


def state_of(trainer: pl.Trainer, module: pl.LightningModule) -> list[Tensor]:
    """Weights, buffers, gradients and the state of the optimizer, and what the random number generator gives next."""
    optimizer = [value for state in trainer.optimizers[0].state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [torch.zeros(0) if p.grad is None else p.grad for p in module.parameters()]
    return [weights(module), *module.buffers(), *gradients, *optimizer, torch.rand(3)]


@pytest.mark.parametrize(
    ("planned", "mode", "workers"),
    [
        (True, "train", 0),
        (False, "eval", 0),
        *(pytest.param(p, "train", w, marks=pytest.mark.slow) for p, w in ((False, 0), (True, 2), (False, 2))),
    ],
)
def test_training_with_it_is_bitwise_equal_to_training_without_it(planned: bool, mode: str, workers: int, tmp_path: Path) -> None:
    without = state_of(*trained(False, planned=planned, workers=workers))
    with_it = state_of(*trained(tmp_path / "c.csv", planned=planned, workers=workers, options={"mode": mode}))
    assert all(torch.equal(a, b) for a, b in zip(without, with_it, strict=True))
    rows = read_rows(tmp_path / "c.csv")
    assert len(rows) == 2
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())


def test_what_it_writes(tmp_path: Path) -> None:
    trained(tmp_path / "c.csv", options={"radii": [1e-3, 5e-4], "examples": None})
    first, last = read_rows(tmp_path / "c.csv")
    assert list(first) == [
        *("update", "epoch", "seconds", "loss", "lambda_max", "lambda_max_residual"),
        *("batch_size", "batch_sharpness", "batch_sharpness_error", "batch_sharpness_of_means"),
        *("keskar_phi_0.001", "keskar_phi_0.0005", "keskar_phi_0.001_in_4", "keskar_phi_0.0005_in_4"),
    ]
    assert (int(first["update"]), int(last["update"]), float(last["epoch"])) == (8, 16, 2.0)
    assert int(last["batch_size"]) == 14  # although the last update of a pass is smaller
    assert float(last["keskar_phi_0.001"]) > float(last["keskar_phi_0.0005"]) > 0


class Quiet(Plain):
    """No noise, and all that can go wrong in a module of one's own as far as it is allowed: it logs, and looks at its trainer."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert self.trainer.max_epochs == 1
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


@pytest.mark.parametrize("planned", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_numbers_are_those_of_the_whole_training_loss(planned: bool, tmp_path: Path) -> None:
    """Of a user's own module and DataLoader, at the weights that the training has ended with."""
    module = Quiet(network())
    batches = [BatchSizeScheduler(Fixed(size=10), check_cuts=False)] if planned else []
    options: dict[str, Any] = {
        "examples": None,
        "chunk_size": 17,
        "batches": 2,
        "batch_size": N,
        "subspace": None,
        "radii": [],
        "tolerance": 1e-6,
    }
    trainer = fit(module, *batches, Sharpness(path=tmp_path / "c.csv", **options), max_epochs=1)
    (row,) = read_rows(tmp_path / "c.csv")
    data = Regression()
    surface = LossSurface(lambda batch: F.mse_loss(module.net(batch[0]), batch[1]), list(module.parameters()), [(1.0, (data.x, data.y))])
    loss, gradient = surface.loss_and_gradient()
    assert (float(row["epoch"]), int(row["update"])) == (1.0, trainer.global_step)
    assert float(row["loss"]) == pytest.approx(loss, rel=1e-9)
    assert float(row["lambda_max"]) == pytest.approx(largest_eigenvalue(surface.product, surface.size, tolerance=1e-6).value, rel=1e-5)
    along = float(gradient @ surface.product(gradient) / (gradient @ gradient))
    assert float(row["batch_sharpness"]) == pytest.approx(along, rel=1e-8)  # one batch of all examples
    assert row["batch_sharpness_error"] == "nan"


class Tokens(Plain):
    """A mean over the examples with a positive first number."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = batch
        kept = (x[:, 0] > 0).double()
        loss: Tensor = ((self.net(x) - y).square().mean(1) * kept).sum() / kept.sum()
        return loss


def test_a_loss_with_another_denominator_is_weighted_as_in_the_training(tmp_path: Path) -> None:
    module, data = Tokens(network()), Regression()
    batches = BatchSizeScheduler(Fixed(size=10, last="drop"), weight=lambda batch: (batch[0][:, 0] > 0).sum(), check_cuts=False)
    options: dict[str, Any] = {"examples": None, "chunk_size": 30, "batches": 0, "radii": [], "tolerance": 1e-3}
    fit(module, batches, Sharpness(path=tmp_path / "c.csv", **options), max_epochs=1)
    kept = data.x[:, 0] > 0
    exact = float(F.mse_loss(module.net(data.x[kept]), data.y[kept]).detach())
    assert float(read_rows(tmp_path / "c.csv")[0]["loss"]) == pytest.approx(exact, rel=1e-9)


@pytest.mark.slow
def test_eval_mode_is_the_function_that_is_used_and_train_mode_the_one_that_is_trained(tmp_path: Path) -> None:
    found = {}
    for mode in ("eval", "train"):
        module = Plain(network(norm=True))
        options: dict[str, Any] = {"examples": None, "chunk_size": N, "batches": 0, "radii": [], "mode": mode}
        fit(module, Sharpness(path=tmp_path / mode, **options), max_epochs=1)
        data = Regression()
        module.train(mode == "train")
        found[mode] = float(F.mse_loss(module.net(data.x), data.y).detach())
        assert float(read_rows(tmp_path / mode)[0]["loss"]) == pytest.approx(found[mode], rel=1e-9)
    assert found["eval"] != pytest.approx(found["train"], rel=1e-3)


@pytest.mark.slow
def test_a_resumed_run_has_the_rows_of_the_whole(tmp_path: Path) -> None:
    def run(name: str, epochs: int, ckpt: Path | None = None) -> list[dict[str, str]]:
        torch.manual_seed(5)
        batches = BatchSizeScheduler(Fixed(size=14), check_cuts=False)
        last = Checkpoint(tmp_path / name, "last", save_on_train_epoch_end=True, enable_version_counter=False)
        sharpness = Sharpness(every_n_epochs=1, path=tmp_path / f"{name}.csv", **QUICK)
        options: dict[str, Any] = {"max_epochs": epochs, "enable_checkpointing": True, "default_root_dir": tmp_path}
        fit(Noisy(), batches, sharpness, last, data=Regression(torch.float32), ckpt_path=ckpt, **options)
        return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(tmp_path / f"{name}.csv")]

    whole, _ = run("whole", 3), run("part", 2)
    assert run("part", 3, tmp_path / "part" / "last.ckpt") == whole
    assert [row["update"] for row in whole] == ["8", "16", "24"]


@pytest.mark.slow
def test_two_processes_measure_together_what_one_does(tmp_path: Path) -> None:
    """They share the chunks and add up; both are at the same numbers, and the training does not notice."""
    jobs = [{"world": 2, "csv": str(tmp_path / "two.csv")}, {"world": 2, "csv": ""}]
    measured, without = results_of_ranks("tests.helpers.sharpness_job", jobs, 2)
    ((one,),) = results_of_ranks("tests.helpers.sharpness_job", [{"world": 1, "csv": str(tmp_path / "one.csv")}], 1)
    assert measured[0]["weights"] == measured[1]["weights"] == without[0]["weights"]
    assert len(one["rows"]) == 2
    for row, alone in zip(measured[0]["rows"], one["rows"], strict=True):
        found, expected = (
            {name: float(value) for name, value in each.items() if name not in ("seconds", "lambda_max_residual")} for each in (row, alone)
        )
        assert found == pytest.approx(expected, rel=1e-5)


# -- what cannot be measured ---------------------------------------------------------------------------------------------------


class Counts(Plain):
    """Its loss depends on how often it is called."""

    calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        Counts.calls += 1
        return super().training_step(batch, batch_idx) * (1 + 0.1 * Counts.calls)


class Optimizers(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        return super().training_step(batch, batch_idx) * float(optimizer.param_groups[0]["lr"])


class Once(torch.autograd.Function):
    """It can be differentiated only once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class NotTwice(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(Once.apply(self.net(batch[0])), batch[1])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(Counts, "the loss is not a function of the weights", marks=pytest.mark.slow),
        pytest.param(Optimizers, "training_step or a hook uses trainer.strategy", marks=pytest.mark.slow),
        (NotTwice, "trying to differentiate twice a function that was marked with @once_differentiable"),
    ],
)
def test_a_module_that_cannot_be_measured_is_trained_all_the_same(make: Callable[[nn.Module], Plain], reason: str, tmp_path: Path) -> None:
    module = make(network())
    with pytest.warns(UserWarning, match=f"Sharpness could not measure the curvature after 15 updates \\(.*({reason})"):
        fit(module, Sharpness(path=tmp_path / "c.csv", **QUICK), max_epochs=1)
    assert read_rows(tmp_path / "c.csv") == []


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(5).double(), torch.ones(2).double(), 0)] * 8)


@pytest.mark.slow
def test_examples_without_numbers_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the training examples are not those of one DataLoader"):
        fit(Plain(network()), Sharpness(path=tmp_path / "c.csv"), loader=DataLoader(Stream(), batch_size=4), max_epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs=0: must be a whole number of epochs, at least 1; null for none"),
        ({"at_end": 1}, "at_end=1: must be true or false"),
        ({"at_end": False}, "at_end=False: leaves no time to measure"),
        ({"examples": 0}, "examples=0: must be a whole number of examples, at least 1; null for all"),
        ({"chunk_size": 2.5}, r"chunk_size=2.5: must be a whole number of examples"),
        ({"mode": "test"}, "mode=test: must be one of eval, train"),
        ({"tolerance": 1}, r"tolerance=1: must be a finite number in \(0, 1\)"),
        ({"batches": -1}, "batches=-1: must be a whole number, at least 0"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number of examples, at least 1; null for that of the training"),
        ({"radii": 0.1}, "radii=0.1: must be a list of numbers"),
        ({"radii": [0.1, -1]}, r"radii=-1: must be a finite number in \(0, inf\)"),
        ({"radii": [0.1, 0.1]}, r"radii=\[0.1, 0.1\]: has the same number twice"),
        ({"full_space": 1}, "full_space=1: must be true or false"),
        ({"subspace": 0}, "subspace=0: must be a whole number of dimensions, at least 1"),
        ({"iterations": 0}, "iterations=0: must be a whole number, at least 1"),
        ({"seed": -1}, "seed=-1: must be a whole number, at least 0"),
        ({"tolerance": None, "batches": 0, "radii": []}, "tolerance=null: leaves nothing to measure"),
        ({"epsilon": 1}, "epsilon=1: is not an argument of Sharpness"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sharpness(**options)

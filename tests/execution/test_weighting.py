"""An accumulated update has the gradient of one big batch for any mean, if each micro-batch has the weight of its denominator."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor, StopOnDivergence
from noisescale.errors import ConfigError
from noisescale.execution.weighting import MicroBatchWeights
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.denominators import PROBLEMS, BigBatches, N, NextToken, Sequences, count_targets, padded
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

ROUNDINGS = 16
"""Bound of the relative error of a gradient in units of the machine precision: about 260 partial sums, each rounded by at most half a unit
at random, are off by sqrt(260)/2 = 8 units, and so is the big batch that they are compared with."""

GROWING = batching.MultiStep(size=16, milestones=[1, 2], factor=3, max_size=N)


def scheduler(problem: str = "token mean", limit: int | None = 4, **options: Any) -> BatchSizeScheduler:
    strategy = options.pop("strategy", GROWING)
    return BatchSizeScheduler(
        strategy, schedules.Cosine(), **{"max_micro_batch_size": limit, "seed": 2, "weight": PROBLEMS[problem][1], **options}
    )


@pytest.mark.cases(6)
@pytest.mark.parametrize("limit", [64, 16, 4, 1])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_update_has_the_gradient_of_one_big_batch(dtype: torch.dtype, problem: str, limit: int) -> None:
    errors = BigBatches()
    fit(NextToken(problem, dtype), errors, scheduler(problem, limit))
    assert len(errors.errors) == 7 + 3 + 1
    assert max(errors.errors) <= ROUNDINGS * torch.finfo(dtype).eps


@pytest.mark.parametrize("problem", PROBLEMS)
def test_without_the_weight_the_gradient_is_another(problem: str) -> None:
    """Otherwise the test above could not fail."""
    errors = BigBatches()
    fit(NextToken(problem, torch.float64), errors, scheduler(problem, weight=None, check_cuts=False))
    assert max(errors.errors) > 0.1


def test_the_number_of_examples_as_the_weight_is_the_same_as_no_weight() -> None:
    plain, weighted = Plain(network()), Plain(network())
    strategy = batching.Fixed(size=29)
    fit(plain, scheduler(strategy=strategy, weight=None))
    fit(weighted, scheduler(strategy=strategy, weight=lambda batch: len(batch[0])))
    torch.testing.assert_close(weights(weighted), weights(plain), rtol=1e-12, atol=1e-14)


def test_a_power_of_two_in_the_weight_does_not_change_a_bit() -> None:
    modules = [NextToken("token mean", torch.float32) for _ in range(3)]
    for module, power in zip(modules, (0, 40, -40), strict=True):
        fit(module, scheduler(weight=lambda batch, power=power: 2.0**power * float(count_targets(batch))))
    assert torch.equal(weights(modules[0]), weights(modules[1]))
    assert torch.equal(weights(modules[0]), weights(modules[2]))


@pytest.mark.parametrize("times", [1.0, 1e6])
def test_mixed_precision_in_float16_does_not_overflow(times: float) -> None:
    """A large weight must not push the scaled loss out of the range of float16: then the scaler would skip updates."""
    found = []

    class Skips(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            found.append(scaler.get_scale())

    errors, scaler = BigBatches(), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    batches = scheduler(weight=lambda batch: times * float(count_targets(batch)))
    fit(NextToken("token mean", torch.float32), errors, batches, Skips(), plugins=precision)
    assert set(found) == {2.0**12}
    assert max(errors.errors) < 0.01  # float16 has 11 bits


def test_clipping_is_that_of_the_big_batch() -> None:
    norms: list[float] = []

    class Norm(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in pl_module.parameters() if p.grad is not None)))

    whole, cut = NextToken("token mean", torch.float64), NextToken("token mean", torch.float64)
    fit(whole, scheduler(limit=None), Norm(), gradient_clip_val=0.05)
    assert norms == pytest.approx([0.05] * 11, rel=1e-4)
    fit(cut, scheduler(limit=1), gradient_clip_val=0.05)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-11, atol=1e-13)


@pytest.mark.cases(1)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_micro_batch_of_weight_0_adds_nothing_though_its_loss_is_nan(problem: str, tmp_path: Path) -> None:
    """With micro-batches of one, each sequence of one token is 0/0."""
    errors = BigBatches()
    monitor = NoiseScaleMonitor(tmp_path / "steps.csv")
    fit(NextToken(problem, torch.float64), errors, scheduler(problem, limit=1), StopOnDivergence(), monitor)
    assert any(len(sequence) == 1 for sequence in Sequences().sequences)
    assert max(errors.errors) <= ROUNDINGS * torch.finfo(torch.float64).eps
    rows = read_rows(tmp_path / "steps.csv")
    assert [float(row["loss"]) for row in rows] == pytest.approx(errors.losses, rel=1e-12)


def test_an_update_without_any_weight_takes_a_zero_gradient_and_says_so_once(tmp_path: Path) -> None:
    data: Any = [(torch.tensor([3]), torch.tensor([-100]))] * 10
    module = NextToken("mask", torch.float64)
    before, zeros = weights(module), []

    class Gradient(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            zeros.append(all(p.grad is not None and not p.grad.any() for p in pl_module.parameters()))

    monitor = NoiseScaleMonitor(tmp_path / "steps.csv")
    batches = scheduler("mask", limit=2, strategy=batching.Fixed(size=5))
    with pytest.warns(UserWarning, match="update 0: the weights of all its micro-batches are 0") as said:
        fit(module, batches, Gradient(), monitor, StopOnDivergence(), loader=DataLoader(data, collate_fn=padded))
    assert len([warning for warning in said if "weights" in str(warning.message)]) == 1
    assert zeros == [True] * 6
    assert torch.equal(weights(module), before)
    assert {(row["loss"], row["weight"]) for row in read_rows(tmp_path / "steps.csv")} == {("nan", "0.0")}


def test_steps_csv_has_the_weighted_mean_and_the_sum_of_the_weights(tmp_path: Path) -> None:
    errors = BigBatches()
    fit(NextToken("token mean", torch.float64), errors, scheduler(), NoiseScaleMonitor(tmp_path / "steps.csv"))
    rows = read_rows(tmp_path / "steps.csv")
    assert [*rows[0]][-2:] == ["loss", "weight"]
    assert [float(row["loss"]) for row in rows] == pytest.approx(errors.losses, rel=1e-12)
    assert [float(row["weight"]) for row in rows] == errors.weights
    assert sum(int(row["effective_batch_size"]) for row in rows) == 3 * N  # B stays in examples


def test_a_column_for_the_weight_only_where_there_is_one(tmp_path: Path) -> None:
    fit(Plain(network()), BatchSizeScheduler(batching.Fixed(size=8)), NoiseScaleMonitor(tmp_path / "steps.csv"))
    assert "weight" not in read_rows(tmp_path / "steps.csv")[0]


@pytest.mark.cases(2)
@pytest.mark.parametrize("at", [1, 6, 30, 31, 45])
def test_a_run_that_is_saved_inside_an_update_resumes_bit_for_bit(at: int, tmp_path: Path) -> None:
    whole, resumed = NextToken("mask", torch.float32), NextToken("mask", torch.float32)
    monitor = NoiseScaleMonitor(tmp_path / "whole.csv")
    fit(whole, scheduler("mask", limit=3), monitor)
    with pytest.raises(Stop):
        fit(
            NextToken("mask", torch.float32),
            scheduler("mask", limit=3),
            NoiseScaleMonitor(tmp_path / "steps.csv"),
            SaveAndDie(at, tmp_path / "x.ckpt"),
        )
    fit(resumed, scheduler("mask", limit=3), NoiseScaleMonitor(tmp_path / "steps.csv"), ckpt_path=tmp_path / "x.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    assert (tmp_path / "steps.csv").read_text() == (tmp_path / "whole.csv").read_text()


@pytest.mark.cases(1)
@pytest.mark.parametrize("limits", [(3, 5), (5, 3), (3, None)])
def test_a_run_that_is_resumed_with_another_limit_repeats_the_update(limits: tuple[int, int | None], tmp_path: Path) -> None:
    first, second = limits
    whole, resumed = NextToken("token mean", torch.float64), NextToken("token mean", torch.float64)
    fit(whole, scheduler(limit=3))
    with pytest.raises(Stop):
        fit(NextToken("token mean", torch.float64), scheduler(limit=first), SaveAndDie(8, tmp_path / "x.ckpt"))
    fit(resumed, scheduler(limit=second), ckpt_path=tmp_path / "x.ckpt")
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, torch.tensor(-0.5)])
def test_a_weight_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"weight=.*: must return a finite number >= 0"):
        fit(NextToken("token mean", torch.float64), scheduler(weight=lambda batch: value))


def test_what_is_no_weight_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^weight=5: must be a function batch -> number; for example"):
        scheduler(weight=5)
    for value, name in (("x", "str"), (None, "NoneType"), (torch.ones(2), "Tensor")):
        with pytest.raises(ConfigError, match=rf"^weight={name}: must return a number; return the denominator"):
            fit(NextToken("token mean", torch.float64), scheduler(weight=lambda batch, value=value: value))
    with pytest.raises(ConfigError, match=r"^strategy=32: must be a batch strategy; for example"):
        BatchSizeScheduler(32)  # type: ignore[arg-type]


def test_the_reference_is_a_power_of_two_near_the_expected_sum() -> None:
    sums = MicroBatchWeights(lambda batch: batch)
    sums.start_update()
    w = sums.take(300.0, 4, 64, quiet_trainer())  # 75 per example: 4800 are expected for 64
    assert w == 300.0
    assert sums.factor(w, 16) == 300.0 * 16 / 4096
    assert json.loads(json.dumps(sums.state())) == {"reference": 4096.0, "per_example": None, "total": 300.0}


def test_a_parameter_that_is_only_in_the_optimizer_is_divided_too() -> None:
    """As that of a loss which is kept in a plain list."""

    class Scaled(NextToken):
        def __init__(self) -> None:
            super().__init__("token mean", torch.float64)
            self.outside = [torch.nn.Parameter(torch.ones((), dtype=torch.float64))]

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            tokens, targets = batch
            return self.loss(self.outside[0] * self.net(tokens).flatten(0, 1), targets.flatten())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([*self.parameters(), *self.outside], lr=self.lr)

    whole, cut = Scaled(), Scaled()
    fit(whole, scheduler(limit=None))
    fit(cut, scheduler(limit=1))
    torch.testing.assert_close(cut.outside[0], whole.outside[0], rtol=1e-11, atol=1e-13)


def test_sparse_gradients_are_divided_too() -> None:
    class Sparse(NextToken):
        def __init__(self) -> None:
            super().__init__("token mean", torch.float64)
            dense: Any = self.net[0]
            self.net[0] = torch.nn.Embedding.from_pretrained(dense.weight.detach().clone(), freeze=False, sparse=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    class Dense(NextToken):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    dense, sparse = Dense("token mean", torch.float64), Sparse()
    for module in (dense, sparse):
        fit(module, scheduler())
    torch.testing.assert_close(weights(sparse), weights(dense), rtol=1e-12, atol=1e-14)

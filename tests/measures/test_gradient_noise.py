"""GradientNoiseScale measures what brute force finds, and changes nothing."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader

from noisescale.callbacks import GradientNoiseScale
from noisescale.plans import strategies as batching
from tests.helpers.denominators import NextToken, count_targets
from tests.helpers.gradient_noise import Twin, averages, planned, problems, rows_of
from tests.helpers.regression import N, Plain, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

PROBLEMS = problems()


# -- against brute force --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, pytest.param(3, marks=pytest.mark.slow)], ids=["cut in two", "of at most 3"])
@pytest.mark.parametrize("name", ["tanh", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "convolutional"))])
def test_the_mean_is_that_of_exact_gradients_of_each_example(name: str, limit: int | None, tmp_path: Path) -> None:
    """Within 3 standard errors, from 400 updates at the same weights."""
    problem, n = PROBLEMS[name], len(PROBLEMS[name].x)
    squared, trace = problem.exact()
    callback = GradientNoiseScale(path=tmp_path / "noise.csv")
    batches = planned(batching.Fixed(13, last="carry"), split_every=1, max_micro_batch_size=limit)
    fit(problem.module(), batches, callback, loader=problem.loader(), max_epochs=50)
    assert_within_three_errors(rows_of(tmp_path / "noise.csv"), squared - trace / n, trace)


def assert_within_three_errors(rows: list[dict[str, float]], squared: float, trace: float) -> None:
    for column, expected in (("grad_cov_trace", trace), ("grad_sq_norm", squared)):
        values = [row[column] for row in rows]
        error = stdev(values) / math.sqrt(len(values))
        assert error < 0.2 * max(abs(expected), trace / N)  # otherwise three of them would hide a mistake
        assert abs(fmean(values) - expected) < 3 * error


@pytest.mark.parametrize(
    ("options", "trainer"),
    [
        ({"split_every": 1}, {}),
        ({"max_micro_batch_size": 4, "split_every": 2}, {"gradient_clip_val": 1e-3}),
        pytest.param({"max_micro_batch_size": 3}, {}, marks=pytest.mark.slow),
        pytest.param({"split_every": 3}, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("task", ["examples", "tokens"])
def test_each_update_has_the_gradients_of_its_pieces(options: dict[str, Any], trainer: dict[str, Any], task: str, tmp_path: Path) -> None:
    module = Plain(network()) if task == "examples" else NextToken("mask", torch.float64)
    weight = None if task == "examples" else count_targets
    twin, callback = Twin(), GradientNoiseScale(options.get("split_every", 1), path=tmp_path / "noise.csv")
    fit(module, planned(weight=weight, **options), twin, callback, **trainer)
    rows = rows_of(tmp_path / "noise.csv")
    expected = [(step, *found) for step, found in enumerate(twin.found) if (step + 1) % (options.get("split_every", 1)) == 0]
    expected = [row for row in expected if not math.isnan(row[1])]  # the updates of a single piece, such as of one example
    assert len(rows) >= 10
    assert [row["step"] for row in rows] == [step for step, _, _ in expected]
    for row, (_, squared, trace) in zip(rows, expected, strict=True):
        assert (row["grad_sq_norm"], row["grad_cov_trace"]) == pytest.approx((squared, trace), rel=1e-8, abs=1e-12)


@pytest.mark.slow
def test_without_a_plan_it_measures_lightnings_own_accumulation(tmp_path: Path) -> None:
    """Also where an epoch ends with fewer micro-batches than the others, and with a smaller one: 103 = 25 x 4 + 3."""
    problem = PROBLEMS["tanh"]
    squared, trace = problem.exact()
    callback = GradientNoiseScale(1, path=tmp_path / "noise.csv")
    loader = DataLoader(problem.loader().dataset, batch_size=4, shuffle=True)
    pl.seed_everything(3, verbose=False)
    fit(problem.module(), callback, loader=loader, accumulate_grad_batches=3, max_epochs=50)
    rows = rows_of(tmp_path / "noise.csv")
    assert {row["size"] for row in rows[:8]} == {12}
    assert len(rows) == 50 * 9
    assert_within_three_errors(rows, squared - trace / N, trace)


class Scaled(MixedPrecision):
    """Mixed precision's scale of the loss, without its lower precision."""

    def forward_context(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()


def test_the_scale_of_mixed_precision_is_undone(tmp_path: Path) -> None:
    """A step that is skipped, because the scale was too large, is not measured."""
    found = []
    for scale in (None, 2.0**10, 2.0**127):
        plugins = [] if scale is None else [Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))]
        callback = GradientNoiseScale(path=tmp_path / f"{scale}.csv")
        fit(Plain(network(torch.float32)), planned(split_every=2), callback, max_epochs=1, plugins=plugins)
        found.append(rows_of(tmp_path / f"{scale}.csv"))
    plain, scaled, too_large = found
    assert [row["grad_cov_trace"] for row in scaled] == pytest.approx([row["grad_cov_trace"] for row in plain], rel=1e-4)
    assert len(too_large) < len(plain)


# -- nothing else changes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True], ids=["", "batch norm"])
def test_training_is_bitwise_the_same_with_it(norm: bool, tmp_path: Path) -> None:
    trained = []
    for callbacks in ([], [GradientNoiseScale(path=tmp_path / "noise.csv")]):
        module = Plain(network(dropout=0.3, norm=norm))
        trainer = fit(module, planned(split_every=2, max_micro_batch_size=9), *callbacks, gradient_clip_val=0.5)
        trained.append((weights(module), dict(module.named_buffers()), str(trainer.optimizers[0].state_dict()), torch.get_rng_state()))
    assert len(rows_of(tmp_path / "noise.csv")) > 10
    (w, buffers, optimizer, random), (other_w, other_buffers, other_optimizer, other_random) = trained
    assert torch.equal(w, other_w)
    assert all(torch.equal(value, other_buffers[name]) for name, value in buffers.items())
    assert optimizer == other_optimizer
    assert torch.equal(random, other_random)


def test_cutting_updates_in_two_changes_only_the_rounding() -> None:
    trained = []
    for every in (None, 2):
        module = Plain(network())
        fit(module, planned(split_every=every))
        trained.append(weights(module))
    assert not torch.equal(*trained)
    torch.testing.assert_close(*trained, rtol=1e-11, atol=1e-12)


# -- resume ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "where"),
    [
        (5, "batch_end"),
        *(pytest.param(at, "batch_end", marks=pytest.mark.slow) for at in (4, 6, 7, 33)),
        *(pytest.param(at, "inside", marks=pytest.mark.slow) for at in (4, 5, 6, 7, 33)),
    ],
)
def test_a_resumed_run_measures_what_it_would_have_measured(at: int, where: str, tmp_path: Path) -> None:
    def train(path: Path, *more: pl.Callback, **options: Any) -> GradientNoiseScale:
        callback = GradientNoiseScale(path=path)
        # the saver comes first, so that the callback has seen no more than the saved state says
        fit(Plain(network(dropout=0.3)), *more, planned(split_every=3, max_micro_batch_size=9), callback, **options)
        return callback

    whole = train(tmp_path / "whole.csv")
    with pytest.raises(Stop):
        train(tmp_path / "resumed.csv", SaveAndDie(at, tmp_path / "in.ckpt", where))
    resumed = train(tmp_path / "resumed.csv", ckpt_path=tmp_path / "in.ckpt")
    assert averages(resumed) == averages(whole)
    assert (tmp_path / "resumed.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_another_run_starts_anew(tmp_path: Path) -> None:
    callback = GradientNoiseScale(path=tmp_path / "noise.csv")
    for _ in range(2):
        fit(Plain(network()), planned(split_every=3), callback, max_epochs=1)
    assert callback.average.average.weights == pytest.approx(sum(0.9**age for age in range(len(rows_of(tmp_path / "noise.csv")))))

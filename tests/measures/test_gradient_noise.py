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
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, GradientNoiseScale
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.models.normalization import GhostBatchNorm2d
from noisescale.plans import FollowNoise
from noisescale.plans import strategies as batching
from tests.helpers.denominators import NextToken, count_targets
from tests.helpers.gradient_noise import Sparse, Twin, averages, problems, rows_of
from tests.helpers.regression import N, Plain, network
from tests.helpers.trainings import SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

PROBLEMS = problems()
GROWING = batching.Linear(size=2, max_size=31, epochs=3, last="partial")


def planned(strategy: batching.BatchStrategy = GROWING, **options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(strategy, schedules.Cosine(), seed=5, check_cuts=False, **options)


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


# -- what it logs ---------------------------------------------------------------------------------------------------------------


def test_the_tags_and_their_values(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    callback = GradientNoiseScale(decay=0.8)
    fit(Plain(network()), planned(split_every=4), callback, logger=logger, default_root_dir=tmp_path)
    logged = read_rows(tmp_path / "metrics.csv")[-1]
    own = rows_of(tmp_path / "gradient_noise.csv")[-1]
    assert {name for name in logged if name.startswith("noise/")} == {
        "noise/gns",
        "noise/gns_low",
        "noise/gns_high",
        "noise/grad_sq_norm",
        "noise/grad_cov_trace",
        "noise/batch_efficiency",
    }
    assert float(logged["noise/grad_cov_trace"]) == callback.average.trace
    assert float(logged["noise/grad_sq_norm"]) == callback.average.square
    assert int(logged["step"]) == own["step"]
    assert float(logged["examples_seen"]) == own["examples_seen"]
    gns = callback.average.noise_scale
    assert float(logged["noise/gns"]) == own["gns"] == gns > 0
    assert own["gns_low"] < gns < own["gns_high"]
    assert own["batch_efficiency"] == pytest.approx(1 / (1 + own["size"] / gns))


def test_batch_norm_is_said_and_marks_the_tags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        logger = CSVLogger(tmp_path, name="", version="")
        fit(Plain(network(norm=True)), planned(batching.Fixed(20), split_every=2), GradientNoiseScale(path=False), logger=logger)
    assert "with batch norm each piece of an update is normalised by itself" in caplog.text
    assert {name for name in read_rows(tmp_path / "metrics.csv")[0] if name.startswith("noise/gns")} == {
        "noise/gns_batch_norm",
        "noise/gns_low_batch_norm",
        "noise/gns_high_batch_norm",
    }


@pytest.mark.slow
def test_ghost_batches_are_measured_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The pieces are whole ghost batches, and B_simple does not depend on how many of them are in a piece."""

    class Ghosts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(1)
                self.first, self.norm, self.last = torch.nn.Linear(5, 16), GhostBatchNorm2d(16, 4), torch.nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.norm(self.first(x)[..., None, None])[..., 0, 0].tanh())
            return y

    found = []
    for limit in (4, 8):
        module = Plain(Ghosts().double(), lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        callback = GradientNoiseScale(1, path=tmp_path / f"{limit}.csv")
        with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
            fit(module, planned(batching.Fixed(16, last="drop"), max_micro_batch_size=limit), callback, max_epochs=60)
        found.append([row["grad_cov_trace"] for row in rows_of(tmp_path / f"{limit}.csv")])
    assert "batch norm" not in caplog.text
    errors = [stdev(values) / math.sqrt(len(values)) for values in found]
    assert abs(fmean(found[0]) - fmean(found[1])) < 3 * math.hypot(*errors)
    assert max(errors) < 0.1 * fmean(found[0])


def test_single_pieces_are_said() -> None:
    with pytest.warns(
        UserWarning, match=r"measures nothing, .* a single piece: BatchSizeScheduler\(split_every=50\) cuts one in 50 in two"
    ):
        fit(Plain(network()), planned(batching.Fixed(31)), GradientNoiseScale(path=False), max_epochs=1)
    batches = planned(batching.Fixed(31, last="drop"), split_every=2, micro_batch_multiple=31)
    with pytest.warns(UserWarning, match=r"measures nothing, .* and none of them can be cut in two, for batch norm or its ghost batches"):
        fit(Plain(network()), batches, GradientNoiseScale(path=False), max_epochs=1)


def test_batches_that_go_by_rare_measurements_are_said() -> None:
    with pytest.warns(UserWarning, match=r"an epoch at B = 12 has 8 updates, of which one in 3 is measured: .*; every_n_updates=2 gives 4"):
        fit(Plain(network()), planned(FollowNoise(size=12), split_every=3), GradientNoiseScale(path=False), max_epochs=1)
    with pytest.raises(ConfigError, match=r"decay=0.5: .* above 0.5"):
        fit(Plain(network()), planned(FollowNoise(size=12), split_every=2), GradientNoiseScale(decay=0.5, path=False), max_epochs=1)


def test_how_often_nothing_bounded_it_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        fit(Plain(network()), planned(batching.Fixed(8), split_every=6), GradientNoiseScale(path=False), max_epochs=2)
    assert "nothing bounded B_simple from above after 4 of 4 measurements" in caplog.text


def test_gradients_in_parts_are_said_and_not_measured(tmp_path: Path) -> None:
    class Twice(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x = batch[0].requires_grad_()
            halves = [checkpoint(self.net, part, use_reentrant=True) for part in x.tensor_split(2)]
            return F.mse_loss(torch.cat(halves), batch[1])

    module, callback = Twice(network()), GradientNoiseScale(path=tmp_path / "noise.csv")
    with pytest.warns(UserWarning, match="get their gradients in several parts"):
        fit(module, planned(batching.Fixed(20), split_every=1), callback, max_epochs=1)
    assert rows_of(tmp_path / "noise.csv") == []


@pytest.mark.parametrize("arguments", [{"every_n_updates": 0}, {"decay": 1.0}, {"confidence": 0.0}, {"every_n_updates": 2.5}])
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        GradientNoiseScale(**arguments)


def test_turns_that_the_plan_does_not_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match="every_n_updates=5: must be a multiple of split_every=3"):
        fit(Plain(network()), planned(split_every=3), GradientNoiseScale(5, path=False))


def test_sparse_gradients(tmp_path: Path) -> None:
    found = []
    for sparse in (False, True):
        callback = GradientNoiseScale(path=tmp_path / f"{sparse}.csv")
        fit(Sparse(sparse), planned(weight=count_targets, split_every=2), callback, max_epochs=1)
        found.append([row["grad_cov_trace"] for row in rows_of(tmp_path / f"{sparse}.csv")])
    assert found[0] == pytest.approx(found[1])

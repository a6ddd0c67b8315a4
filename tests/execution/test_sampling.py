"""What a pass draws: the same for any number of workers and after a resume, and the gradients are exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.errors import ConfigError
from noisescale.execution.sampling import Sampling
from noisescale.files import read_rows
from noisescale.plans import Dual
from noisescale.plans import strategies as batching
from tests.helpers.denominators import PROBLEMS, BigBatches, NextToken, Sequences
from tests.helpers.refusals import error_of
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.rounding import GRADIENT_ROUNDINGS
from tests.helpers.trainings import GradientErrors, SaveAndDie, Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

UNEQUAL = [1.0 + index % 5 for index in range(N)]
"""A weight for each example of the regression data: 1 to 5."""
SOME_NEVER = [0.0 if index % 4 == 0 else 0.5 + index % 3 for index in range(N)]
"""Every fourth example is never drawn."""
GROWING = batching.MultiStep(size=11, milestones=[0.7, 1.6], factor=2, last="carry")


def sampled(seed: int = 5, limit: int = 4, **options: Any) -> BatchSizeScheduler:
    return BatchSizeScheduler(GROWING, schedules.Cosine(), max_micro_batch_size=limit, seed=seed, **options)


# -- in training ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", [True, False])
def test_each_update_has_the_examples_of_the_order_and_the_gradient_of_one_big_batch(replacement: bool) -> None:
    errors = GradientErrors(Regression(torch.float64))
    module, scheduler = Plain(network()), sampled(sampling_weights=SOME_NEVER, replacement=replacement)
    fit(module, scheduler, errors)
    n = scheduler.plan.num_examples
    assert n == sum(weight > 0 for weight in SOME_NEVER)
    assert scheduler.plan.replacement is replacement
    sampling = Sampling(torch.tensor(SOME_NEVER, dtype=torch.float64), replacement)
    stream = [index for number in range(4) for index in sampling.order(N, 5, number).tolist()]
    seen = [index for part in module.seen for index in part]
    assert seen == stream[: len(seen)]
    assert len(seen) >= 3 * n
    assert max(errors.errors) <= GRADIENT_ROUNDINGS * torch.finfo(torch.float64).eps


def test_weights_of_examples_and_of_micro_batches_do_not_touch_each_other() -> None:
    """Which examples are drawn is one thing, and what the loss divides by another."""
    errors, size = BigBatches(), len(Sequences())
    drawn: dict[str, Any] = {"sampling_weights": [1 + index % 3 for index in range(size)]}
    fit(NextToken("class weights", torch.float64), sampled(weight=PROBLEMS["class weights"][1], **drawn), errors, max_epochs=1)
    assert len(errors.errors) > 5
    assert max(errors.errors) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_a_bit(workers: int) -> None:
    results = []
    for count in (0, workers):
        module = Plain(network(dropout=0.3))
        fit(module, sampled(sampling_weights=UNEQUAL), workers=count, max_epochs=2)
        results.append((module.seen, weights(module).tolist()))
    assert results[0] == results[1]


@pytest.mark.cases(1)
@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("at", [1, 31])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(tmp_path: Path, at: int, replacement: bool) -> None:
    options: dict[str, Any] = {"sampling_weights": UNEQUAL, "replacement": replacement}
    whole = Plain(network(dropout=0.3))
    fit(whole, sampled(**options), NoiseScaleMonitor(tmp_path / "whole.csv"))
    with pytest.raises(Stop):
        fit(
            Plain(network(dropout=0.3)),
            sampled(**options),
            NoiseScaleMonitor(tmp_path / "parts.csv"),
            SaveAndDie(at, tmp_path / "in.ckpt"),
        )
    resumed = Plain(network(dropout=0.3))
    fit(resumed, sampled(**options), NoiseScaleMonitor(tmp_path / "parts.csv"), ckpt_path=tmp_path / "in.ckpt")
    assert torch.equal(weights(resumed), weights(whole))
    assert read_rows(tmp_path / "parts.csv") == read_rows(tmp_path / "whole.csv")


@pytest.mark.parametrize("other", [{}, {"sampling_weights": UNEQUAL[::-1]}, {"sampling_weights": UNEQUAL, "replacement": False}])
def test_a_run_is_not_resumed_with_another_sampling(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(Stop):
        fit(Plain(network()), sampled(sampling_weights=UNEQUAL), SaveAndDie(31, tmp_path / "in.ckpt"))
    error = error_of(lambda: fit(Plain(network()), sampled(**other), ckpt_path=tmp_path / "in.ckpt"), "sampling_weights")
    assert "resume with the same" in str(error)


def loader(sampler: Sampler[int] | None = None, data: Any = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(data or Regression(torch.float64), batch_size=7, sampler=sampler, **options)


def in_batches(sampler: Sampler[int]) -> DataLoader[Any]:
    return DataLoader(Regression(torch.float64), batch_sampler=BatchSampler(sampler, 7, drop_last=False))


def seen_with(loader: DataLoader[Any], **options: Any) -> list[list[int]]:
    module = Plain(network())
    fit(module, sampled(**options), loader=loader, max_epochs=2)
    return module.seen


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("torchs", "ours"),
    [
        (loader(WeightedRandomSampler(UNEQUAL, N)), {"sampling_weights": UNEQUAL}),
        (loader(WeightedRandomSampler(UNEQUAL, N, replacement=False)), {"sampling_weights": UNEQUAL, "replacement": False}),
        (in_batches(WeightedRandomSampler(UNEQUAL, N)), {"sampling_weights": UNEQUAL}),
        (loader(RandomSampler(range(N), replacement=True)), {"replacement": True}),
        (loader(SubsetRandomSampler(range(1, N, 2))), {"sampling_weights": [i % 2 for i in range(N)], "replacement": False}),
        (loader(DistributedSampler(Regression(), 1, 0)), {}),
        (in_batches(RandomSampler(range(N))), {}),
        (loader(WeightedRandomSampler([0.0, *UNEQUAL[1:]], N - 1)), {"sampling_weights": [0, *UNEQUAL[1:]]}),
    ],
    ids=["weighted", "without", "in a batch sampler", "bootstrap", "subset", "distributed", "shuffled batches", "one never"],
)
def test_torchs_samplers_are_understood(torchs: DataLoader[Any], ours: dict[str, Any]) -> None:
    assert seen_with(torchs) == seen_with(loader(shuffle=True), **ours)


def test_without_replacement_and_weights_the_loader_decides_about_the_order() -> None:
    assert seen_with(loader(), replacement=False) == seen_with(loader()) != seen_with(loader(shuffle=True), replacement=False)


class Mine(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(N))

    def __len__(self) -> int:
        return N


class Twice(WeightedRandomSampler):
    """A sampler of one's own that is derived from torch's."""


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (loader(Mine()), {}, "train_dataloader=Mine: has a sampler of its own, but the plan draws the examples"),
        (loader(Mine()), {"sampling_weights": UNEQUAL}, "train_dataloader=Mine: has a sampler of its own"),
        (loader(Twice(UNEQUAL, N)), {}, "train_dataloader=Twice: has a sampler of its own"),
        (DataLoader(Regression(), batch_sampler=[[0, 1], [2]]), {}, "train_dataloader=list: has a sampler of its own"),
        (in_batches(Mine()), {}, "train_dataloader=Mine: has a sampler of its own"),
        (loader(SubsetRandomSampler([1, 2, 2])), {}, "train_dataloader=SubsetRandomSampler: has a sampler of its own"),
        (loader(WeightedRandomSampler(UNEQUAL, 10 * N)), {}, f"draws {10 * N} examples in an epoch, but an epoch of a plan is N = {N}"),
        (loader(WeightedRandomSampler(UNEQUAL, 10 * N)), {}, f"let it draw {N}, and train for 10 times as many epochs"),
        (loader(WeightedRandomSampler(SOME_NEVER, N)), {}, f"an epoch of a plan is N = {sum(w > 0 for w in SOME_NEVER)}"),
        (loader(RandomSampler(range(N), True, 20)), {}, "train_dataloader=RandomSampler: draws 20 examples"),
        (loader(RandomSampler(range(50))), {}, "train_dataloader=RandomSampler: draws 50 examples"),
        (loader(SequentialSampler(range(50))), {}, "train_dataloader=SequentialSampler: draws 50 examples"),
        (loader(SequentialSampler(range(50))), {}, "give torch.utils.data.Subset for a part of the data"),
        (loader(WeightedRandomSampler(UNEQUAL, 50, False)), {}, "draw with replacement, or give torch.utils.data.Subset"),
        (loader(RandomSampler(range(N), num_samples=2 * N)), {}, f"let it draw {N}, and train for 2 times as many epochs"),
        (loader(DistributedSampler(range(50), 1, 0)), {}, "train_dataloader=DistributedSampler: draws 50 examples"),  # type: ignore[arg-type]
        (loader(WeightedRandomSampler(UNEQUAL, N)), {"sampling_weights": UNEQUAL}, "leave one of the two out"),
        (loader(RandomSampler(range(N), True)), {"replacement": False}, "leave one of the two out"),
        (loader(), {"sampling_weights": UNEQUAL[1:]}, f"sampling_weights={N - 1} weights: the data set has {N} examples"),
        (loader(WeightedRandomSampler([1.0, 2.0], N)), {}, f"sampling_weights=2 weights: the data set has {N} examples"),
    ],
)
def test_what_a_plan_cannot_draw_is_refused_in_one_line(given: DataLoader[Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        seen_with(given, **options)
    line = str(caught.value)
    assert words in line
    assert "a sampler of its own" not in line or "sampling_weights=..." in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.0, -0.5], "sampling_weights[1]=-0.5: must be a finite number >= 0"),
        (torch.tensor([1.0, torch.nan, 2.0]), "sampling_weights[1]=nan: must be a finite number >= 0"),
        ([float("inf")], "sampling_weights[0]=inf: must be a finite number"),
        ([0, 0], "sampling_weights=2 weights: none of them is above 0"),
        ([], "sampling_weights=0 weights: none of them is above 0"),
        (torch.ones(2, 3), "sampling_weights=a tensor of shape (2, 3): must have one dimension"),
        ("balanced", "sampling_weights=str: must be a list of numbers"),
        ({"cat": 1.0}, "sampling_weights=dict: must be a list of numbers"),
    ],
)
def test_weights_that_are_none_are_refused_at_once(given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BatchSizeScheduler(GROWING, sampling_weights=given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replacement_must_be_true_or_false() -> None:
    error_of(lambda: BatchSizeScheduler(GROWING, replacement="no"), "replacement", "True, False or None")  # type: ignore[arg-type]


# -- the noise -----------------------------------------------------------------------------------------------------------------


def rows_of(path: Path, strategy: batching.BatchStrategy, data: DataLoader[Any] | None = None, **options: Any) -> list[dict[str, str]]:
    scheduler = BatchSizeScheduler(strategy, schedules.Step(1, 0.5), **options)
    fit(Plain(network()), scheduler, NoiseScaleMonitor(path / "steps.csv"), loader=data or loader(shuffle=True), max_epochs=2)
    rows = read_rows(path / "steps.csv")
    assert [float(row["g"]) for row in rows] == [scheduler.plan.noise(update, 0.1) for update in scheduler.plan]
    return rows


def test_with_replacement_g_is_lr_n_over_b(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, batching.Fixed(size=20), sampling_weights=UNEQUAL)
    assert [float(row["g"]) for row in rows] == pytest.approx(
        [float(row["lr"]) * N / int(row["effective_batch_size"]) for row in rows], rel=1e-15
    )


def test_a_batch_of_n_draws_has_the_noise_lr(tmp_path: Path) -> None:
    assert [float(row["g"]) for row in rows_of(tmp_path, batching.Full(), replacement=True)] == [0.1, 0.05]


def test_weights_without_replacement_have_the_noise_of_any_pass(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, batching.Full(), sampling_weights=UNEQUAL, replacement=False)
    assert [float(row["g"]) for row in rows] == [0.0, 0.0]


def test_a_weight_of_0_is_an_example_that_the_data_set_does_not_have(tmp_path: Path) -> None:
    """N counts the examples that can be drawn, so that g is that of the subset."""
    kept = [index for index, weight in enumerate(SOME_NEVER) if weight]
    subset = loader(data=Subset(Regression(torch.float64), kept), shuffle=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    there = rows_of(tmp_path / "a", batching.Fixed(size=20), subset, replacement=True)
    here = rows_of(tmp_path / "b", batching.Fixed(size=20), sampling_weights=SOME_NEVER)
    for column in ("epoch", "g", "effective_batch_size", "lr"):
        assert [row[column] for row in here] == [row[column] for row in there]


def test_a_dual_with_replacement_matches_the_ratio(tmp_path: Path) -> None:
    error_of(lambda: rows_of(tmp_path, Dual(10), sampling_weights=UNEQUAL), "match", "exact", "set it to ratio")
    rows = rows_of(tmp_path, Dual(10, match="ratio", max_size=50), sampling_weights=UNEQUAL)
    assert [float(row["g"]) for row in rows] == pytest.approx([(0.1 if float(row["epoch"]) < 1 else 0.05) * N / 10 for row in rows])
    assert {row["effective_batch_size"] for row in rows} >= {"10", "20"}

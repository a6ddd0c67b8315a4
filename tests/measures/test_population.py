"""N and g are those of the data that examples are drawn from, whatever sampler draws them and however many it draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
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

from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.files import read_rows
from noisescale.measures.population import Population, population_of
from noisescale.plans import Fixed
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

EQUAL = [1.0] * N
HALF = [float(index % 2) for index in range(N)]
DRAWN = sum(index % 2 for index in range(N))


class Mine(Sampler[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(index % N for index in range(self.count))

    def __len__(self) -> int:
        return self.count


class Endless(Sampler[int]):
    """It has no length."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


def loader(sampler: Any = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(Regression(), batch_size=5, sampler=sampler, **options)


def over_two_devices(sampler: Any) -> DataLoader[Any]:
    """What Lightning makes of a loader with `sampler` under DDP."""
    return loader(DistributedSamplerWrapper(sampler, num_replicas=2, rank=0))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        *((loader(WeightedRandomSampler(EQUAL, count)), Population(N, True)) for count in (N // 2, N, 5 * N)),
        (loader(WeightedRandomSampler(HALF, N)), Population(DRAWN, True)),
        (loader(WeightedRandomSampler(EQUAL, 20, replacement=False)), Population(N)),
        (loader(RandomSampler(range(N), replacement=True)), Population(N, True)),
        (loader(RandomSampler(range(N), num_samples=20)), Population(N)),
        (loader(RandomSampler(range(N), num_samples=3 * N)), Population(N)),
        (loader(shuffle=True), Population(N)),
        (loader(), Population(N)),
        (loader(SequentialSampler(range(30))), Population(30)),
        (loader(SubsetRandomSampler(range(30))), Population(30)),
        (DataLoader(Subset(Regression(), range(30))), Population(30)),
        (DataLoader(Regression(), batch_sampler=BatchSampler(WeightedRandomSampler(EQUAL, 7), 5, False)), Population(N, True)),
        (loader(DistributedSampler(Regression(), 2, 0)), Population(N)),
        (over_two_devices(WeightedRandomSampler(EQUAL, 5 * N)), Population(N, True)),
        (over_two_devices(RandomSampler(range(N), replacement=True, num_samples=20)), Population(N, True)),
        (over_two_devices(Mine(30)), Population(30, unknown="Mine")),
        (loader(Mine(30)), Population(30, unknown="Mine")),
        (loader(Mine(5 * N)), Population(N, unknown="Mine")),
        (loader(Endless()), Population(N, unknown="Endless")),
        (DataLoader(Regression(), batch_sampler=[[0, 1], [2]]), Population(N, unknown="list")),
        (DataLoader(Regression(), batch_size=None), Population(N)),
    ],
)
def test_n_is_the_number_of_examples_that_can_be_drawn_not_the_number_of_draws(given: DataLoader[Any], found: Population) -> None:
    assert population_of(given) == found
    assert population_of(given, 1000) == found._replace(num_examples=1000)


@pytest.mark.parametrize("draws", [50, N, 5 * N])
def test_g_does_not_depend_on_the_draws_of_an_epoch(draws: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a plain Trainer. With N taken from the sampler, g was .9, 1.96 and 10.2."""
    said: list[str] = []
    monkeypatch.setattr("noisescale.measures.noise_scale.rank_zero_info", said.append)
    data = loader(WeightedRandomSampler(EQUAL, draws), drop_last=True)
    fit(Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv"), loader=data, max_epochs=1)
    rows = read_rows(tmp_path / "steps.csv")
    assert len(rows) == draws // 5
    assert {float(row["g"]) for row in rows} == {0.1 * N / 5}
    assert [float(row["epoch"]) for row in rows] == pytest.approx([5 * k / N for k in range(len(rows))])
    assert said == [f"effective 5 = 5 micro x 1 accumulate x 1 device; N {N}, with replacement; lr 0.1; g {0.1 * N / 5:.4g}; on the CPU"]


def test_it_says_so_of_a_plan_and_of_a_sampler_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("noisescale.measures.noise_scale.rank_zero_info", said.append)
    planned = BatchSizeScheduler(Fixed(size=32), max_micro_batch_size=8, sampling_weights=[index % 5 for index in range(N)])
    fit(Plain(network()), NoiseScaleMonitor(False), planned, max_epochs=1)
    fit(Plain(network()), NoiseScaleMonitor(False), loader=loader(Mine(N)), max_epochs=1)
    n = sum(index % 5 > 0 for index in range(N))
    assert said == [
        f"effective 32 = 8 micro x 4 accumulate x 1 device; N {n}, with replacement; lr 0.1; g {0.1 * n / 32:.4g}; on the CPU",
        f"effective 5 = 5 micro x 1 accumulate x 1 device; N {N} (if Mine draws without replacement); lr 0.1; g {0.1 * (N / 5 - 1):.4g}; "
        "on the CPU",
    ]

"""N without reading the data: the table agrees with the data modules, and the N of a program is the N that it trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from noisescale.app.composed import num_examples
from noisescale.app.config import build
from noisescale.data import DiabetesData, ImageDataModule
from noisescale.errors import ConfigError
from noisescale.plans.dataset_size import TRAINING_EXAMPLES, split_sizes
from tests.helpers.repository import CONF


@pytest.fixture(scope="module")
def composed() -> dict[str, DictConfig]:
    """The config of each data set, including Hydra's own part, as train.py and plan.py get it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {name: compose("config", ["output_dir=somewhere", f"data={name}"], return_hydra_config=True) for name in TRAINING_EXAMPLES}


@contextmanager
def front_door(cfg: DictConfig, **data: Any) -> Iterator[DictConfig]:
    """A copy of `cfg` with other values in `data`, while Hydra knows which options were chosen."""
    made = cfg.copy()
    for key, value in data.items():
        made.data[key] = value
    HydraConfig.instance().set_config(made)
    try:
        yield made
    finally:
        HydraConfig.instance().cfg = None


def data_of(cfg: DictConfig) -> ImageDataModule | DiabetesData:
    data = build(cfg, "data")
    assert isinstance(data, (ImageDataModule, DiabetesData))
    return data


def test_every_option_whose_size_is_known_is_in_the_table() -> None:
    options = {file.stem for file in (CONF / "data").glob("[!_]*.yaml")}
    assert set(TRAINING_EXAMPLES) == options - {"imagefolder", "own"}


def test_the_sizes_are_the_published_ones() -> None:
    """1797 digits without the 360 test digits; 442 patients without the 88 of the test; MNIST and Fashion-MNIST 60 000, CIFAR 50 000."""
    published = {
        "digits": 1797 - 360,
        "mnist": 60_000,
        "fashion_mnist": 60_000,
        "cifar10": 50_000,
        "cifar100": 50_000,
        "diabetes": 442 - 88,
    }
    assert published == TRAINING_EXAMPLES


@pytest.mark.parametrize("name", TRAINING_EXAMPLES)
def test_the_table_has_what_the_data_say_of_themselves(name: str, composed: dict[str, DictConfig]) -> None:
    with front_door(composed[name]) as cfg:
        data = data_of(cfg)
        known = data.NUM_TRAIN if isinstance(data, DiabetesData) else data.train_examples()
        assert known == TRAINING_EXAMPLES[name]


@pytest.mark.parametrize("name", TRAINING_EXAMPLES)
def test_a_front_doors_n_is_that_of_the_data(name: str, composed: dict[str, DictConfig]) -> None:
    for subset_size, val_fraction in product([None, 2, 7, 200, TRAINING_EXAMPLES[name]], [0.0, 0.1, 0.25, 0.45]):
        with front_door(composed[name], subset_size=subset_size, val_fraction=val_fraction) as cfg:
            assert num_examples(cfg) == data_of(cfg).train_size()


@pytest.mark.parametrize(("subset_size", "val_fraction"), [(None, 0.0), (None, 0.1), (57, 0.0), (101, 0.33)])
def test_and_that_many_are_read(subset_size: int | None, val_fraction: float, composed: dict[str, DictConfig]) -> None:
    with front_door(composed["digits"], subset_size=subset_size, val_fraction=val_fraction) as cfg:
        data = data_of(cfg)
        data.setup()
        assert data.num_examples == num_examples(cfg)


def test_a_given_size_stands_in_place_of_the_datas_own(composed: dict[str, DictConfig]) -> None:
    with front_door(composed["cifar10"], size=1_281_167, root="/nowhere") as cfg:
        assert num_examples(cfg) == 1_281_167
    with (
        front_door(composed["cifar10"], size=1_281_167, subset_size=7) as cfg,
        pytest.raises(ConfigError, match=r"^data\.subset_size=7: has no effect with data\.size"),
    ):
        num_examples(cfg)


def test_the_set_counts_that_is_named(composed: dict[str, DictConfig]) -> None:
    """data=cifar10 data.name=mnist trains on MNIST."""
    with front_door(composed["cifar10"], name="mnist") as cfg:
        assert num_examples(cfg) == data_of(cfg).train_size() == 54_000


@pytest.mark.parametrize("name", ["digits", "cifar10"])
@pytest.mark.parametrize(
    "wrong", [{"subset_size": 0}, {"subset_size": 60_001}, {"subset_size": 2.5}, {"val_fraction": 1.0}, {"val_fraction": -0.1}], ids=str
)
def test_what_the_data_refuse_is_refused_in_the_same_words(name: str, wrong: dict[str, Any], composed: dict[str, DictConfig]) -> None:
    lines = []
    with front_door(composed[name], **wrong) as cfg:
        for ask in (num_examples, lambda cfg: data_of(cfg).train_size()):
            with pytest.raises(ConfigError) as refusal:
                ask(cfg)
            error = refusal.value
            lines.append(str(error if error.key.startswith("data.") else error.under("data")))
    assert lines[0] == lines[1]


@given(n=st.integers(1, 10**6), fraction=st.floats(0.0, 0.999), data=st.data())
def test_training_and_validation_share_the_subset(n: int, fraction: float, data: st.DataObject) -> None:
    subset = data.draw(st.none() | st.integers(1, n))
    m = n if subset is None else subset
    if (m == 1 and fraction > 0) or math.floor(fraction * m + 0.5) >= m:
        with pytest.raises(ConfigError, match=rf"^val_fraction=.*: leaves none of {m} examples to train on"):
            split_sizes(n, subset_size=subset, val_fraction=fraction)
        return
    train, validate = split_sizes(n, subset_size=subset, val_fraction=fraction)
    assert train + validate == m
    assert train >= 1
    assert (validate == 0) == (fraction == 0)
    assert abs(validate - fraction * m) <= 0.5 + 1e-9 * m or validate == 1

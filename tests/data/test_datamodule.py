"""The data module: setup, the data sets and loaders that it makes, where images live, and the error messages for wrong data."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from noisescale.data import DigitsData, Examples, ImageDataModule, ImageDataset, Split
from tests.helpers.images import COMMON, digits
from tests.helpers.refusals import error_of
from tests.helpers.repository import CONF


def test_subsets_of_the_module_are_nested() -> None:
    def images(size: int) -> Tensor:
        data = digits(subset_size=size, val_fraction=0)
        assert data.train_size() == size
        data.setup("fit")
        dataset: Any = data.train_dataloader().dataset
        found: Tensor = dataset.images
        return found

    assert torch.equal(images(200)[:100], images(100))


def test_setup_reads_the_test_set_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    original = DigitsData.read

    def read(self: DigitsData, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        reads.append(split)
        return original(self, split, select)

    monkeypatch.setattr(DigitsData, "read", read)
    data = digits()
    data.setup("fit")
    data.setup("validate")
    assert reads == ["train"]
    data.setup("test")
    data.setup(None)
    assert reads == ["train", "test"]


def test_take_gathers_a_batch_and_draws_nothing() -> None:
    data = digits()
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    assert isinstance(dataset, ImageDataset)
    assert isinstance(dataset.images, Tensor)
    state = torch.get_rng_state()
    indices = torch.tensor([5, 3, 5])
    for one, other in zip(dataset.take(indices), dataset.__getitems__([5, 3, 5]), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(dataset.take(indices)[0], dataset.images[indices])
    assert torch.equal(torch.get_rng_state(), state)
    held_out: Any = data.val_dataloader().dataset  # type: ignore[union-attr]
    assert len(held_out.take(indices)) == 2


def test_images_in_memory_live_on_the_training_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" holds no values, but a tensor is on it only if it was computed from tensors that are on it."""

    def batch_of(name: str = "train", device: str = "meta", **changes: Any) -> tuple[DataLoader[Any], Any]:
        data = digits(**changes)
        data.setup()
        root_device = torch.device(device)
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=root_device), num_devices=1)  # type: ignore[assignment]
        loader: Any = getattr(data, f"{name}_dataloader")()
        assert getattr(data, f"{name}_dataloader")().dataset is loader.dataset  # it is moved only once
        assert not loader.pin_memory
        return loader, loader.dataset.take(torch.tensor([4, 2]))

    for name, columns in (("train", 3), ("val", 2), ("test", 2)):
        _, batch = batch_of(name)
        assert [column.device.type for column in batch] == ["meta"] * columns
        assert batch[0].shape == (2, 1, 8, 8)
    assert len(batch_of()[0].dataset) == 1293  # type: ignore[arg-type]
    for stays in ({"in_memory": False}, {"memory_limit_gb": 1e-5}, {"num_workers": 1}, {"device": "cpu"}):
        assert {column.device.type for column in batch_of(**stays)[1]} == {"cpu"}
    assert batch_of(memory_limit_gb=1797 * 64 / 1e9)[1][0].device.type == "meta"
    error_of(lambda: batch_of(in_memory=True, memory_limit_gb=1e-5), "memory_limit_gb", "1437 training and 360 test images of 1 x 8 x 8")


@pytest.mark.parametrize("in_memory", [True, False])
def test_memory_is_pinned_for_batches_that_travel(in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageDataset, "to", lambda self, device: self)  # this machine may have no GPU
    data = digits(in_memory=in_memory)
    data.setup()
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    data.trainer = SimpleNamespace(strategy=strategy, num_devices=1)  # type: ignore[assignment]
    assert data.train_dataloader().pin_memory is not in_memory
    assert not data.test_dataloader().pin_memory


def test_the_training_loader_gathers_batches() -> None:
    data = digits(batch_size=32)
    data.setup("fit")
    loader = data.train_dataloader()
    dataset: Any = loader.dataset
    images, labels, indices = dataset.__getitems__([5, 3, 5])
    assert indices.tolist() == [5, 3, 5]
    assert torch.equal(images, dataset.images[indices])
    assert torch.equal(labels, dataset.labels[indices])
    image, label, index = dataset[3]
    assert torch.equal(image, images[1])
    assert (int(label), int(index)) == (int(labels[1]), 3)
    seen = list(loader)
    assert [len(batch[2]) for batch in seen] == [32] * 40 + [13]
    order = torch.cat([batch[2] for batch in seen])
    assert order.sort().values.tolist() == list(range(1293))
    assert order.tolist() != list(range(1293))
    planned = DataLoader(dataset, batch_sampler=[[1, 2], [7]], collate_fn=loader.collate_fn)
    assert [batch[2].tolist() for batch in planned] == [[1, 2], [7]]
    assert not loader.pin_memory


def test_workers_persist() -> None:
    data = digits(num_workers=2)
    data.setup()
    assert all(loader.persistent_workers for loader in (data.train_dataloader(), data.test_dataloader()))


def test_a_module_can_be_pickled_before_and_after_setup() -> None:
    for set_up in (False, True):
        data = digits(augment="crop_flip")
        if set_up:
            data.setup("fit")
            data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        copy = pickle.loads(pickle.dumps(data))
        copy.setup("fit")
        data.setup("fit")
        assert copy.mean == data.mean
        assert torch.equal(copy.train_dataloader().dataset.images, data.train_dataloader().dataset.images)  # type: ignore[attr-defined]


def test_loaders_before_setup_say_so() -> None:
    with pytest.raises(RuntimeError, match=r"call setup\(\)"):
        digits().train_dataloader()


def test_a_source_that_announces_another_size_is_caught() -> None:
    class Wrong(DigitsData):
        NUM_TRAIN = 1400

    with pytest.raises(RuntimeError, match="found 1437 training images, but `train_examples` returned 1400"):
        Wrong(**COMMON).setup("fit")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("subset_size", 0, ["at least 1"]),
        ("subset_size", 1.5, ["whole number"]),
        ("val_fraction", 1.0, ["[0, 1)"]),
        ("val_fraction", -0.1, ["[0, 1)"]),
        ("augment", "flip", ["none, crop_flip"]),
        ("num_workers", -1, ["at least 0"]),
        ("eval_batch_size", 0, ["at least 1"]),
        ("in_memory", "yes", ["auto, true or false"]),
        ("in_memory", 1, ["auto, true or false"]),
        ("memory_limit_gb", 0, ["(0, inf)", "GB"]),
        ("seed", None, ["whole number"]),
        ("batch_size", 0, ["at least 1"]),
    ],
)
def test_a_bad_value_is_refused_before_any_data_are_read(key: str, value: object, words: list[str]) -> None:
    error_of(lambda: digits(**{key: value}), key, f"{key}={value}: must be", *words)


def test_sizes_that_the_data_do_not_allow_are_refused() -> None:
    error_of(digits(subset_size=1438).train_size, "subset_size", "1438", "has 1437 examples")
    error_of(lambda: digits(subset_size=1438).setup("fit"), "subset_size", "1438", "has 1437 examples")
    error_of(digits(subset_size=3, val_fraction=0.9).train_size, "val_fraction", "0.9", "none of 3", "data.subset_size")
    error_of(digits(subset_size=1).train_size, "val_fraction", "none of 1")


@pytest.mark.parametrize("option", ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagefolder"])
def test_every_option_composes_into_a_data_module(option: str) -> None:
    hydra = pytest.importorskip("hydra")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["+seed=7", "data.augment=none", *(["data.root=data"] if option == "imagefolder" else [])]
        config = hydra.compose(f"data/{option}", overrides)
    data = hydra.utils.instantiate(config.data)
    assert isinstance(data, ImageDataModule)
    assert (data.seed, data.augment, data.num_workers, data.batch_size) == (7, "none", None, 64)
    assert getattr(data, "dataset_name", option) == option

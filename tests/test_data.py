"""The data room: splits, sources, statistics, augmentation, loaders, and what a user is told when data are wrong."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from noisescale.data import (
    DigitsData,
    Examples,
    ImageDataModule,
    ImageDataset,
    ImageFolderData,
    Split,
    TorchvisionData,
    balanced_order,
    channel_statistics,
    crop_flip,
    crop_flip_table,
    derived_generator,
    normalize,
    split_train_val,
    torchvision_sets,
)
from noisescale.data.digits import _digits
from noisescale.errors import ConfigError
from noisescale.sizes import split_sizes

REPOSITORY = Path(__file__).parents[1]
COMMON: dict[str, Any] = {
    "subset_size": None,
    "val_fraction": 0.1,
    "augment": "none",
    "num_workers": 0,
    "eval_batch_size": 1000,
    "seed": 0,
    "in_memory": "auto",
    "memory_limit_gb": 4,
}


def digits(**changes: Any) -> DigitsData:
    return DigitsData(**{**COMMON, **changes})


def folder(root: Path | str | None, **changes: Any) -> ImageFolderData:
    return ImageFolderData(**{**COMMON, "root": root, "image_size": None, "cache": False, **changes})


def known(name: str, root: Path | str, **changes: Any) -> TorchvisionData:
    return TorchvisionData(**{**COMMON, "name": name, "root": root, "download": False, **changes})


def error_of(action: Callable[[], object], key: str, *words: object) -> str:
    """The one line of the ConfigError that `action` raises: `key=...`, with all the words in it."""
    with pytest.raises(ConfigError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{key}=")
    assert [str(word) for word in words if str(word) not in line] == [], line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


# ---- splits ----

quick = settings(max_examples=40, deadline=None)
labels_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda values: torch.tensor(values))
seeds = st.integers(0, 2**32)


@given(labels=labels_strategy, seed=seeds)
@quick
def test_every_prefix_of_a_balanced_order_is_balanced(labels: Tensor, seed: int) -> None:
    n = labels.numel()
    order = balanced_order(labels, n, derived_generator(seed))
    assert sorted(order.tolist()) == list(range(n))
    for c in labels.unique().tolist():
        taken = (labels[order] == c).cumsum(0)
        share = torch.arange(1, n + 1) * int((labels == c).sum())
        assert bool(((taken >= share // n) & (taken <= (share + n - 1) // n)).all())


@given(labels=labels_strategy, seed=seeds, data=st.data())
@quick
def test_subsets_of_one_seed_are_prefixes_of_each_other(labels: Tensor, seed: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(0, labels.numel()))
    large = data.draw(st.integers(small, labels.numel()))
    a, b = (balanced_order(labels, m, derived_generator(seed)) for m in (small, large))
    assert torch.equal(a, b[:small])


@given(labels=labels_strategy, seed=seeds, val_fraction=st.floats(0, 0.5), data=st.data())
@quick
def test_train_and_validation_share_the_subset_out(labels: Tensor, seed: int, val_fraction: float, data: st.DataObject) -> None:
    n = labels.numel()
    m = data.draw(st.none() | st.integers(2, n)) if n > 2 else None
    if n == 1:
        val_fraction = 0.0
    train, val = split_train_val(labels, subset_size=m, val_fraction=val_fraction, seed=seed)
    assert (train.numel(), val.numel()) == split_sizes(n, subset_size=m, val_fraction=val_fraction)
    together = torch.cat([train, val])
    subset = torch.arange(n) if m is None else balanced_order(labels, m, derived_generator("subset", seed))
    assert sorted(together.tolist()) == sorted(subset.tolist())
    assert [i for i in subset.tolist() if i in set(train.tolist())] == train.tolist()
    for c in range(6):
        share = val.numel() * int((labels[together] == c).sum()) / together.numel()
        assert abs(int((labels[val] == c).sum()) - share) < 1


def test_classes_of_equal_size_stay_equal() -> None:
    labels = torch.arange(1000) % 10
    train, val = split_train_val(labels, subset_size=200, val_fraction=0.1, seed=3)
    assert labels[train].bincount().tolist() == [18] * 10
    assert labels[val].bincount().tolist() == [2] * 10


def test_seeds_choose_other_examples() -> None:
    labels = torch.arange(1000) % 10
    chosen = [split_train_val(labels, subset_size=50, val_fraction=0.2, seed=seed)[0].tolist() for seed in range(5)]
    assert len({tuple(sorted(c)) for c in chosen}) == 5


@pytest.mark.parametrize(
    ("n", "subset_size", "val_fraction", "sizes"),
    [
        (1437, None, 0.1, (1293, 144)),
        (60_000, None, 0.1, (54_000, 6000)),
        (50_000, 500, 0.1, (450, 50)),
        (100, 3, 0.01, (2, 1)),
        (10, None, 0.0, (10, 0)),
        (10, None, 0, (10, 0)),
        (10, 1, 0, (1, 0)),
    ],
)
def test_split_sizes(n: int, subset_size: int | None, val_fraction: float, sizes: tuple[int, int]) -> None:
    assert split_sizes(n, subset_size=subset_size, val_fraction=val_fraction) == sizes


# ---- statistics and normalisation ----


@given(seed=seeds, n=st.integers(1, 5), c=st.integers(1, 3), top=st.integers(2, 256))
@quick
def test_channel_statistics_are_those_of_numpy(seed: int, n: int, c: int, top: int) -> None:
    images = torch.randint(0, top, (n, c, 5, 4), generator=derived_generator(seed), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    unit = images.numpy() / 255
    np.testing.assert_allclose(mean, unit.mean((0, 2, 3)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(std, np.maximum(unit.std((0, 2, 3)), 1 / 255), rtol=1e-9)


def test_a_constant_channel_normalises_to_zeros() -> None:
    images = torch.full((3, 1, 4, 4), 77, dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert std == (1 / 255,)
    assert (77 / 255 - mean[0]) / std[0] == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_normalize_rounds_once(dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 2, 8, 16)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(2, 1, 1) for v in ([0.3, 0.5], [0.2, 0.4]))
    exact = (images.numpy() / 255 - mean.numpy()) / std.numpy()
    found = normalize(images, mean, std, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, torch.from_numpy(exact).to(dtype)) or torch.allclose(found.double(), torch.from_numpy(exact))


@given(mean=st.floats(0, 1), std=st.floats(1 / 255, 0.5))
@quick
def test_normalize_is_as_exact_as_its_precision_allows(mean: float, std: float) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = normalize(images, torch.tensor(mean).view(1, 1, 1), torch.tensor(std).view(1, 1, 1), torch.float32).double()
    exact = (images.double() / 255 - mean) / std
    # To half a unit in the last place each: the mean twice and the difference, relative to what they are; then three for the scale, and
    # the product.
    half = torch.finfo(torch.float32).eps / 2
    bound = half * (2 * mean / std + 5 * exact.abs()) * 1.01
    assert bool(((found - exact).abs() <= bound + 1e-40).all())


# ---- augmentation ----


def crop_flip_one(image: npt.NDArray[np.uint8], dy: int, dx: int, flip: int) -> npt.NDArray[np.uint8]:
    """The brute-force twin: slice one padded image."""
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (h // 8, h // 8), (w // 8, w // 8)))
    window = padded[:, dy : dy + h, dx : dx + w]
    return window[:, :, ::-1] if flip else window


@given(seed=seeds, n=st.integers(1, 6), c=st.sampled_from([1, 3]), h=st.integers(4, 34), w=st.integers(4, 34))
@quick
def test_crop_flip_is_slicing_a_padded_image(seed: int, n: int, c: int, h: int, w: int) -> None:
    images = torch.randint(0, 256, (n, c, h, w), generator=derived_generator(seed), dtype=torch.uint8)
    table = crop_flip_table(seed=seed, epoch=1, num_examples=n, image_size=(h, w))
    expected = [crop_flip_one(image.numpy(), *row.tolist()) for image, row in zip(images, table, strict=True)]
    np.testing.assert_array_equal(crop_flip(images, table).numpy(), np.stack(expected))


def test_the_table_draws_every_crop_and_flip_equally_often() -> None:
    table = crop_flip_table(seed=0, epoch=0, num_examples=90_000, image_size=(32, 32))
    for column, values in enumerate([9, 9, 2]):
        counts = table[:, column].bincount()
        assert counts.numel() == values
        assert counts.numpy() == pytest.approx(90_000 / values, rel=0.05)
    assert abs(float(torch.corrcoef(table.T.double()).fill_diagonal_(0).abs().max())) < 0.02


def test_tables_of_epochs_and_seeds_are_unrelated() -> None:
    def make(seed: int, epoch: int) -> Tensor:
        return crop_flip_table(seed=seed, epoch=epoch, num_examples=2000, image_size=(32, 32))

    assert torch.equal(make(1, 2), make(1, 2))
    for other in (make(1, 3), make(2, 2), make(2, 1), make(0, 3)):  # the last two share seed + epoch
        same = (make(1, 2) == other).float().mean(0)
        assert same[:2].tolist() == pytest.approx([1 / 9, 1 / 9], abs=0.03)
        assert float(same[2]) == pytest.approx(0.5, abs=0.05)


class Recorder(pl.LightningModule):
    """Keeps the training batches it is given, epoch by epoch, and counts evaluation batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[tuple[Tensor, Tensor]]] = []
        self.evaluated: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen[-1].append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**changes: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**{"accelerator": "cpu", "max_epochs": 2, "num_sanity_val_steps": 0, **quiet, **changes})


class Ordered(DigitsData):
    """Digits whose training batches come in the order of the indices, `batch_size` at a time."""

    def train_dataloader(self) -> DataLoader[Any]:
        loader = super().train_dataloader()
        sampler = BatchSampler(SequentialSampler(range(self.num_examples)), self.batch_size, drop_last=False)
        return DataLoader(loader.dataset, batch_sampler=sampler, collate_fn=loader.collate_fn, num_workers=loader.num_workers)


# Lightning's advice on workers, wrong for data in memory, and its own use of what torch 2.15 deprecates.
FITS = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")
FORKS = pytest.mark.filterwarnings("ignore:.*use of fork", "ignore:.*worker processes in total")


def epochs_of(batch_size: int, num_workers: int = 0) -> list[tuple[Tensor, Tensor]]:
    module = Recorder()
    common = {**COMMON, "subset_size": 70, "augment": "crop_flip", "num_workers": num_workers}
    trainer().fit(module, datamodule=Ordered(**common, batch_size=batch_size))
    return [(torch.cat([x for x, _ in epoch]), torch.cat([y for _, y in epoch])) for epoch in module.seen]


@FITS
@FORKS
def test_batching_and_workers_change_no_pixel_but_epochs_do() -> None:
    reference = epochs_of(batch_size=63)
    assert reference[0][0].shape == (63, 1, 8, 8)
    assert torch.equal(reference[0][1], reference[1][1])
    assert not torch.equal(reference[0][0], reference[1][0])
    for other in (epochs_of(1), epochs_of(20), epochs_of(20, num_workers=1)):
        for (x, y), (other_x, other_y) in zip(reference, other, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)


@FITS
def test_training_is_augmented_and_normalised_and_evaluation_only_normalised() -> None:
    module = Recorder()
    data = Ordered(**{**COMMON, "augment": "crop_flip", "subset_size": 100}, batch_size=30)
    trainer(max_epochs=1).fit(module, datamodule=data)
    dataset: Any = data.train_dataloader().dataset
    table = crop_flip_table(seed=0, epoch=0, num_examples=90, image_size=(8, 8))
    plain = crop_flip(dataset.images, table).numpy() / 255
    x = torch.cat([x for x, _ in module.seen[0]])
    np.testing.assert_allclose(x.numpy(), (plain - data.mean[0]) / data.std[0], rtol=1e-5, atol=1e-6)
    (validated,) = module.evaluated
    images, labels = next(iter(data.val_dataloader()))
    np.testing.assert_allclose(validated[0].numpy(), (images.numpy() / 255 - data.mean[0]) / data.std[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(validated[1], labels)
    module.evaluated.clear()
    trainer().test(module, datamodule=data, verbose=False)
    assert sum(y.numel() for _, y in module.evaluated) == 360
    module.evaluated.clear()
    trainer().validate(module, dataloaders=data.train_dataloader(), verbose=False)
    assert len(module.evaluated[0]) == 3  # a bare loader: the hook of the data module is not in play


@FITS
def test_batches_come_in_the_dtype_of_the_module() -> None:
    module = Recorder()
    trainer(max_epochs=1, precision="64-true").fit(module, datamodule=digits())
    assert module.seen[0][0][0].dtype == torch.float64
    assert module.evaluated[0][0].dtype == torch.float64


@FITS
def test_without_validation_lightning_validates_nothing_and_says_nothing() -> None:
    module, data = Recorder(), digits(val_fraction=0, subset_size=100)
    one = trainer(max_epochs=1, num_sanity_val_steps=2)
    one.fit(module, datamodule=data)
    assert one.limit_val_batches == 1.0
    assert data.val_dataloader() == []
    assert module.evaluated == []
    assert data.num_examples == 100
    assert sum(y.numel() for _, y in module.seen[0]) == 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_pixels_of_the_cpu() -> None:
    images = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8)
    table = crop_flip_table(seed=0, epoch=0, num_examples=500, image_size=(32, 32))
    assert torch.equal(crop_flip(images.cuda(), table.cuda()).cpu(), crop_flip(images, table))
    data = digits()
    data.setup("fit")
    x, y, i = next(iter(data.train_dataloader()))
    on_gpu = data.on_after_batch_transfer((x.cuda(), y.cuda(), i.cuda()), 0)
    torch.testing.assert_close(on_gpu[0].cpu(), data.on_after_batch_transfer((x, y, i), 0)[0])


# ---- the module, on digits ----


def test_digits_after_setup() -> None:
    data = digits()
    assert data.train_size() == 1293
    data.setup("fit")
    data.setup("fit")
    assert (data.num_examples, data.num_classes, data.in_channels, data.image_size) == (1293, 10, 1, (8, 8))
    assert data.class_names == tuple("0123456789")
    dataset: Any = data.train_dataloader().dataset
    assert len(dataset) == 1293
    unit = dataset.images.numpy() / 255
    assert data.mean == pytest.approx((unit.mean(),))
    assert data.std == pytest.approx((unit.std(),))
    assert (dataset.images.dtype, dataset.images.max()) == (torch.uint8, 255)


def every_digit() -> npt.NDArray[np.int64]:
    from sklearn.datasets import load_digits

    labels: npt.NDArray[np.int64] = load_digits().target
    return labels


def test_digits_are_those_that_scikit_learn_reads() -> None:
    from sklearn.datasets import load_digits

    read = load_digits()
    levels, labels = _digits()
    assert torch.equal(levels.double(), torch.from_numpy(read.images))
    assert torch.equal(labels, torch.from_numpy(read.target))
    assert list(read.target_names) == list(range(10))


def test_the_test_set_of_digits_is_fixed_and_balanced_whatever_the_seed() -> None:
    sets = []
    for seed in (0, 1):
        data = digits(seed=seed)
        data.setup()
        sets.append(next(iter(data.test_dataloader())))
    assert torch.equal(sets[0][0], sets[1][0])
    assert torch.equal(sets[0][1], sets[1][1])
    images, labels = sets[0]
    assert labels.numel() == 360
    share = 360 / 1797 * np.bincount(every_digit())
    assert bool((np.abs(labels.bincount().numpy() - share) < 1).all())
    # Pinned: accuracies on this test set are compared across versions.
    assert int((images.double().sum((1, 2, 3)) * torch.arange(1, 361)).sum()) == 323753856


def test_training_validation_and_test_of_digits_are_disjoint() -> None:
    data = digits()
    data.setup()
    loaders: list[Any] = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    rows = [image.tobytes() for loader in loaders for batch in loader for image in batch[0].numpy()]
    assert len(rows) == len(set(rows)) == 1797


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


def test_rows_choose_the_examples_of_shared_images() -> None:
    images = torch.randint(0, 256, (10, 1, 4, 4), generator=derived_generator(0), dtype=torch.uint8)
    rows, labels = torch.tensor([7, 2, 9]), torch.tensor([0, 1, 2])
    shared = ImageDataset(images, labels, True, rows)
    for dataset in (shared, shared.to(torch.device("cpu"))):
        found = dataset.take(torch.tensor([2, 0]))
        assert torch.equal(found[0], images[[9, 7]])
        assert found[1].tolist() == [2, 0]
        assert found[2].tolist() == [2, 0]
    assert len(shared) == 3
    assert shared.to(torch.device("cpu")).images.shape == (3, 1, 4, 4)


def test_images_in_memory_live_on_the_training_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" keeps no values, but what is there was made of what is there."""

    def batch_of(name: str = "train", device: str = "meta", **changes: Any) -> tuple[DataLoader[Any], Any]:
        data = digits(**changes)
        data.setup()
        root_device = torch.device(device)
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=root_device), num_devices=1)  # type: ignore[assignment]
        loader: Any = getattr(data, f"{name}_dataloader")()
        assert getattr(data, f"{name}_dataloader")().dataset is loader.dataset  # moved once
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
    monkeypatch.setattr(ImageDataset, "to", lambda self, device: self)  # there may be no GPU
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

    with pytest.raises(RuntimeError, match="1437 training images, announced 1400"):
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


# ---- torchvision ----


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every torchvision set have 40 + 20 images, and take files of any content."""
    from torchvision import datasets

    for name, entry in list(torchvision_sets.KNOWN.items()):
        small = dataclasses.replace(entry, sizes={"train": 40, "test": 20})
        monkeypatch.setitem(torchvision_sets.KNOWN, name, small)
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "train_list", [(file, None) for file, _ in kind.train_list])
        monkeypatch.setattr(kind, "test_list", [(file, None) for file, _ in kind.test_list])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})


def fake_mnist(raw: Path) -> dict[str, npt.NDArray[np.uint8]]:
    raw.mkdir(parents=True)
    rng, images = np.random.default_rng(0), {}
    for part, n in (("train", 40), ("t10k", 20)):
        images[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{part}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    return images


class OldNumpyType:
    """Pickles like the dtypes in the real CIFAR files, written by the NumPy of 2009, of which NumPy 2.4.0 warns.

    They say `dtype("u1", 0, 1)`; without the 1, later versions warn as well.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("u1", 0)


def fake_cifar(folder: Path, files: dict[str, int], label: str, names: tuple[str, list[str]], meta: str) -> None:
    folder.mkdir(parents=True)
    for file, n in files.items():
        pixels = np.arange(n * 3072, dtype=np.int64).reshape(n, 3072).astype(np.uint8)
        content = {"data": pixels, label: [i % len(names[1]) for i in range(n)], "old": OldNumpyType()}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / meta).write_bytes(pickle.dumps({names[0]: names[1]}))


@pytest.mark.parametrize(("name", "folder_name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
@pytest.mark.usefixtures("small_sets")
def test_the_mnists_are_read_without_download_or_writing(
    name: str, folder_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = fake_mnist(tmp_path / folder_name / "raw")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", pytest.fail)
    data = known(name, str(tmp_path), download=True, val_fraction=0)
    assert data.train_size() == 40
    data.prepare_data()
    data.setup()
    dataset: Any = data.train_dataloader().dataset
    np.testing.assert_array_equal(dataset.images.numpy()[:, 0], images["train"])
    found, labels = next(iter(data.test_dataloader()))
    np.testing.assert_array_equal(found.numpy()[:, 0], images["t10k"])
    assert labels.tolist() == [i % 10 for i in range(20)]
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, (28, 28))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("small_sets")
def test_runs_of_one_process_read_a_set_once_until_its_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist(tmp_path / "MNIST" / "raw")
    reads: list[Split] = []
    original = torchvision_sets._read

    def counted(name: str, root: Path, split: Split, download: bool = False) -> Any:
        reads.append(split)
        return original(name, root, split, download)

    monkeypatch.setattr(torchvision_sets, "_read", counted)
    for seed, subset_size in ((0, None), (1, 20), (2, None)):
        data = known("mnist", tmp_path, seed=seed, subset_size=subset_size)
        data.prepare_data()
        data.setup()
    assert reads == ["train", "test"]
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:16] + bytes(len(content) - 16))
    os.utime(path, ns=(1, 1))
    data = known("mnist", tmp_path)
    data.setup("fit")
    assert data.mean == (0.0,)


@pytest.mark.usefixtures("small_sets")
def test_the_cifars_are_read(tmp_path: Path) -> None:
    ten, hundred = [f"c{i}" for i in range(10)], [f"c{i}" for i in range(100)]
    batches = {f"data_batch_{i}": 8 for i in range(1, 6)} | {"test_batch": 20}
    fake_cifar(tmp_path / "cifar-10-batches-py", batches, "labels", ("label_names", ten), "batches.meta")
    files = {"train": 40, "test": 20}
    fake_cifar(tmp_path / "cifar-100-python", files, "fine_labels", ("fine_label_names", hundred), "meta")
    for name, names in (("cifar10", ten), ("cifar100", hundred)):
        data = known(name, tmp_path, val_fraction=0)
        data.setup()
        assert data.class_names == tuple(names)
        assert (data.num_examples, data.in_channels, data.image_size) == (40, 3, (32, 32))
        dataset: Any = data.train_dataloader().dataset
        first = np.arange(3072).astype(np.uint8).reshape(3, 32, 32)
        np.testing.assert_array_equal(dataset.images[0].numpy(), first)
        assert dataset.images.is_contiguous()


@pytest.mark.skipif(
    not (REPOSITORY.parent / "shared/data/MNIST/raw").is_dir(), reason="no real MNIST in ../shared/data beside the repository"
)
def test_the_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    data = known("mnist", "../shared/data", download=True)
    assert data.train_size() == 54_000
    data.setup()
    assert data.num_examples == 54_000
    assert data.mean[0] == pytest.approx(0.1307, abs=2e-3)
    assert data.std[0] == pytest.approx(0.3081, abs=2e-3)
    assert len(data.test_dataloader().dataset) == 10_000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "module", "error"),
    [
        ("mnist", "mnist", URLError("no network")),
        ("fashion_mnist", "mnist", RuntimeError("File not found or corrupted.")),
        ("cifar10", "cifar", URLError("no network")),
        ("cifar100", "cifar", ConnectionResetError("reset by peer")),
    ],
)
def test_no_files_and_no_network_is_one_clear_line(
    name: str, module: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)
    root = tmp_path / "new"
    data = known(name, root, download=True)
    for action in (data.prepare_data, lambda: data.setup("fit")):
        words = (name, "download failed", root, torchvision_sets.KNOWN[name].folder, "set data.root")
        line = error_of(action, "root", *words)
        # torchvision 0.29 wraps what goes wrong with MNIST's mirrors, 0.26 only an URLError.
        assert str(error) in line or (module == "mnist" and "Error downloading" in line)


def test_a_root_without_the_set_is_refused_without_download(tmp_path: Path) -> None:
    error_of(known("mnist", tmp_path / "no").prepare_data, "root", tmp_path / "no", "no such folder", "data.download=true")
    error_of(lambda: known("cifar10", tmp_path).setup(), "root", "nothing of it in", tmp_path / "cifar-10-batches-py")
    fake_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").unlink()
    error_of(lambda: known("mnist", tmp_path).setup(), "root", "no t10k-images-idx3-ubyte in", tmp_path / "MNIST/raw")
    assert not (tmp_path / "no").exists()


def test_a_root_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error_of(known("mnist", tmp_path / "file", download=True).prepare_data, "root", tmp_path / "file", "download failed")


@pytest.mark.usefixtures("small_sets")
@pytest.mark.parametrize("content", [b"", b"\0\0\10\3", b"\0\0\10\3" + struct.pack(">3I", 40, 28, 28) + b"short"])
@pytest.mark.parametrize("download", [False, True])
def test_a_damaged_file_is_refused(content: bytes, download: bool, tmp_path: Path) -> None:
    fake_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(content)
    data = known("mnist", tmp_path, download=download)
    error_of(lambda: data.setup("fit"), "root", tmp_path / "MNIST/raw", "cannot be read", "delete")


def test_a_set_of_another_size_is_refused(tmp_path: Path) -> None:
    fake_mnist(tmp_path / "MNIST" / "raw")
    error_of(lambda: known("mnist", tmp_path).setup("fit"), "root", tmp_path, "40 train images", "mnist has 60000")


def test_bad_torchvision_keys() -> None:
    error_of(lambda: known("svhn", "data"), "name", "svhn", "mnist, fashion_mnist, cifar10, cifar100")
    error_of(lambda: known("mnist", ""), "root", "must name a folder")
    error_of(lambda: known("mnist", "data", download="yes"), "download", "yes", "true or false")


# ---- image folders ----


def write_images(root: Path, *, size: tuple[int, int] = (8, 6), mode: str = "RGB", kind: str = "png", n: int = 4) -> None:
    """`n` training and 2 test images of each class, cat and dog; size is (width, height)."""
    rng = np.random.default_rng(0)
    for split, count in (("train", n), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / split / name / f"{i}.{kind}")


def pixels_of(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def test_an_image_folder_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, n=100)
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    (tmp_path / "train/.hidden").mkdir()
    data = folder(tmp_path, val_fraction=0)
    assert data.train_size() == 200
    data.setup()
    assert (data.num_examples, data.class_names, data.in_channels, data.image_size) == (200, ("cat", "dog"), 3, (6, 8))
    dataset: Any = data.train_dataloader().dataset
    files = sorted((tmp_path / "train").rglob("*.png"))
    np.testing.assert_array_equal(dataset.images.numpy(), np.stack([pixels_of(file) for file in files]))
    assert dataset.labels.tolist() == [0] * 100 + [1] * 100
    assert next(iter(data.test_dataloader()))[1].tolist() == [0, 0, 1, 1]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_the_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    write_images(tmp_path)
    folder(tmp_path).setup("fit")
    assert "decoding train images" in capsys.readouterr().err


def test_grey_images_stay_grey_and_one_colour_image_makes_all_rgb(tmp_path: Path) -> None:
    write_images(tmp_path, mode="L")
    data = folder(tmp_path)
    data.setup()
    assert data.in_channels == 1
    Image.new("RGB", (8, 6), "red").save(tmp_path / "train/dog/3.png")
    data = folder(tmp_path)
    data.setup()
    assert data.in_channels == 3
    assert next(iter(data.test_dataloader()))[0].shape == (4, 3, 6, 8)


def test_a_colour_test_image_among_grey_training_images_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, mode="L")
    bad = tmp_path / "test/dog/1.png"
    Image.new("RGB", (8, 6), "red").save(bad)
    error_of(folder(tmp_path).setup, "root", bad, "colour", "grey")


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_images_of_8_bits_in_any_mode_are_read(mode: str, tmp_path: Path) -> None:
    write_images(tmp_path, mode=mode, kind="tif")
    data = folder(tmp_path)
    data.setup()
    assert data.in_channels == (1 if mode in ("1", "LA") else 3)


def test_a_palette_with_transparency_is_read(tmp_path: Path) -> None:
    write_images(tmp_path, mode="P")
    with Image.open(tmp_path / "train/cat/0.png") as image:
        image.save(tmp_path / "train/cat/0.png", transparency=b"\0\1")
    folder(tmp_path).setup("fit")


def test_images_are_resized_and_cropped_in_the_centre(tmp_path: Path) -> None:
    write_images(tmp_path)
    stripes = np.zeros((16, 32, 3), dtype=np.uint8)
    stripes[:, 8:24] = 200  # the central square of an image twice as wide as high
    for file in tmp_path.rglob("*.png"):
        Image.fromarray(stripes if file.name == "0.png" else stripes.transpose(1, 0, 2)).save(file)
    data = folder(tmp_path, image_size=8)
    data.setup()
    assert data.image_size == (8, 8)
    dataset: Any = data.train_dataloader().dataset
    assert dataset.images[:, :, 1:7, 1:7].unique().tolist() == [200]


def test_a_subset_decodes_only_itself(tmp_path: Path) -> None:
    write_images(tmp_path)
    data = folder(tmp_path, subset_size=2, val_fraction=0)
    data.setup("fit")
    dataset: Any = data.train_dataloader().dataset
    kept = {image.tobytes() for image in dataset.images.numpy()}
    files = sorted((tmp_path / "train").rglob("*.png"))
    others = [file for file in files if pixels_of(file).tobytes() not in kept]
    assert len(others) == 6
    for file in others:
        file.write_bytes(b"broken")
    again = folder(tmp_path, subset_size=2, val_fraction=0)
    again.setup("fit")
    assert sorted(dataset.labels.tolist()) == [0, 1]


@pytest.mark.parametrize("bad", ["train/cat/2.jpg", "test/dog/1.jpg"])
def test_a_truncated_jpeg_is_named(bad: str, tmp_path: Path) -> None:
    write_images(tmp_path, size=(64, 64), kind="jpg")
    content = (tmp_path / bad).read_bytes()
    (tmp_path / bad).write_bytes(content[: len(content) * 2 // 3])
    error_of(folder(tmp_path).setup, "root", tmp_path / bad, "cannot be decoded", "truncated")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
@pytest.mark.parametrize("bad", ["train/cat/0.png", "train/dog/3.png"])
def test_an_unreadable_image_is_named(bad: str, content: bytes, tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / bad).write_bytes(content)
    error_of(lambda: folder(tmp_path).setup("fit"), "root", tmp_path / bad, "cannot be decoded")


def test_of_several_bad_images_the_first_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, n=150)
    for bad in ("train/dog/9.png", "train/cat/99.png", "train/dog/0.png"):
        (tmp_path / bad).write_bytes(b"broken")
    error_of(lambda: folder(tmp_path, val_fraction=0).setup("fit"), "root", tmp_path / "train/cat/99.png")


def test_16_bit_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, mode="L")
    bad = tmp_path / "train/cat/1.png"
    Image.fromarray(np.full((6, 8), 1000, dtype=np.uint16)).save(bad)
    error_of(lambda: folder(tmp_path).setup("fit"), "root", bad, "8-bit")


@pytest.mark.parametrize("bad", ["train/cat/3.png", "test/cat/0.png"])
def test_images_of_other_sizes_need_image_size(bad: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    Image.new("RGB", (9, 6)).save(tmp_path / bad)
    line = error_of(folder(tmp_path, val_fraction=0).setup, "image_size", tmp_path / bad, "9 x 6", "8 x 6", "data.image_size")
    assert line.startswith("image_size=null: ")


def test_more_than_the_memory_limit_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    needed = 12 * 3 * 1000 * 1000 / 1e9
    data = folder(tmp_path, image_size=1000, memory_limit_gb=0.035, in_memory=True)
    words = ("0.035", f"{needed:.3g} GB", "data.image_size", "data.subset_size", "data.memory_limit_gb", "data.in_memory=auto")
    error_of(lambda: data.setup("fit"), "memory_limit_gb", *words)
    folder(tmp_path, image_size=1000, memory_limit_gb=0.037, in_memory=True).setup("fit")
    folder(tmp_path, image_size=1000, memory_limit_gb=0.035, in_memory=True, subset_size=7).setup("fit")


def test_every_fault_of_the_layout_is_one_line_with_its_path(tmp_path: Path) -> None:
    error_of(lambda: folder(None), "root", "root=null", "data.root")
    error_of(folder(tmp_path / "no").train_size, "root", tmp_path / "no", "no such folder", "train/<class>/")
    error_of(folder(tmp_path).train_size, "root", f"no folder {tmp_path / 'train'}")
    (tmp_path / "train").mkdir()
    error_of(folder(tmp_path).train_size, "root", f"no class folders in {tmp_path / 'train'}")
    (tmp_path / "train/cat").mkdir()
    error_of(folder(tmp_path).train_size, "root", f"no folder {tmp_path / 'test'}")
    (tmp_path / "test/cat").mkdir(parents=True)
    error_of(folder(tmp_path).train_size, "root", f"no images in {tmp_path / 'train/cat'}", ".png")
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "test")
    write_images(tmp_path)
    (tmp_path / "test/emu").mkdir()
    error_of(folder(tmp_path).train_size, "root", "same classes", tmp_path / "test/emu", "not in train")
    shutil.rmtree(tmp_path / "test/emu")
    shutil.rmtree(tmp_path / "test/dog")
    error_of(folder(tmp_path).setup, "root", "same classes", tmp_path / "train/dog", "not in test")


def test_bad_folder_keys(tmp_path: Path) -> None:
    error_of(lambda: folder(tmp_path, image_size=0), "image_size", "0", "pixels")
    error_of(lambda: folder(tmp_path, cache="yes"), "cache", "yes", "true or false")
    write_images(tmp_path)
    error_of(folder(tmp_path, subset_size=9).train_size, "subset_size", "9", "8 examples")


# ---- the configuration group ----


@pytest.mark.parametrize("option", ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagefolder"])
def test_every_option_composes_into_a_data_module(option: str) -> None:
    hydra = pytest.importorskip("hydra")
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        overrides = ["+seed=7", "data.augment=none", *(["data.root=data"] if option == "imagefolder" else [])]
        config = hydra.compose(f"data/{option}", overrides)
    data = hydra.utils.instantiate(config.data)
    assert isinstance(data, ImageDataModule)
    assert (data.seed, data.augment, data.num_workers, data.batch_size) == (7, "none", None, 64)
    assert getattr(data, "dataset_name", option) == option

"""The data modules: splits, sources, statistics, augmentation, loaders, and the error messages for wrong data."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from noisescale.data import (
    DigitsData,
    Examples,
    ImageDataModule,
    ImageDataset,
    Split,
    balanced_order,
    channel_statistics,
    crop_flip,
    crop_flip_table,
    derived_generator,
    normalize,
    split_train_val,
)
from noisescale.data.digits import _digits
from noisescale.plans.dataset_size import split_sizes
from tests.helpers.images import COMMON, digits
from tests.helpers.refusals import error_of
from tests.helpers.repository import CONF
from tests.helpers.trainings import quiet_trainer

# ---- splits ----

quick = settings(max_examples=40)
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
    # Each rounding is at most half a unit in the last place: two of the mean and one of the difference, then three of the scale and one of
    # the product.
    half = torch.finfo(torch.float32).eps / 2
    bound = half * (2 * mean / std + 5 * exact.abs()) * 1.01
    assert bool(((found - exact).abs() <= bound + 1e-40).all())


# ---- augmentation ----


def crop_flip_one(image: npt.NDArray[np.uint8], dy: int, dx: int, flip: int) -> npt.NDArray[np.uint8]:
    """An independent brute-force version: slice one padded image."""
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
    for other in (make(1, 3), make(2, 2), make(2, 1), make(0, 3)):  # the last two have the same seed + epoch
        same = (make(1, 2) == other).float().mean(0)
        assert same[:2].tolist() == pytest.approx([1 / 9, 1 / 9], abs=0.03)
        assert float(same[2]) == pytest.approx(0.5, abs=0.05)


class Recorder(pl.LightningModule):
    """Records the training batches of each epoch, and the evaluation batches."""

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


class Ordered(DigitsData):
    """Digits whose training batches are in the order of the indices, `batch_size` examples each."""

    def train_dataloader(self) -> DataLoader[Any]:
        loader = super().train_dataloader()
        sampler = BatchSampler(SequentialSampler(range(self.num_examples)), self.batch_size, drop_last=False)
        return DataLoader(loader.dataset, batch_sampler=sampler, collate_fn=loader.collate_fn, num_workers=loader.num_workers)


# Lightning's advice to use workers, which is wrong for data in memory, and its own use of functions that torch 2.15 deprecates.
FITS = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")
FORKS = pytest.mark.filterwarnings("ignore:.*use of fork", "ignore:.*worker processes in total")


def epochs_of(batch_size: int, num_workers: int = 0) -> list[tuple[Tensor, Tensor]]:
    module = Recorder()
    common = {**COMMON, "subset_size": 70, "augment": "crop_flip", "num_workers": num_workers}
    quiet_trainer(max_epochs=2).fit(module, datamodule=Ordered(**common, batch_size=batch_size))
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
    quiet_trainer(max_epochs=1).fit(module, datamodule=data)
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
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert sum(y.numel() for _, y in module.evaluated) == 360
    module.evaluated.clear()
    quiet_trainer().validate(module, dataloaders=data.train_dataloader(), verbose=False)
    assert len(module.evaluated[0]) == 3  # for a bare loader the hook of the data module is not called


@FITS
def test_batches_come_in_the_dtype_of_the_module() -> None:
    module = Recorder()
    quiet_trainer(max_epochs=1, precision="64-true").fit(module, datamodule=digits())
    assert module.seen[0][0][0].dtype == torch.float64
    assert module.evaluated[0][0].dtype == torch.float64


@FITS
def test_without_validation_lightning_validates_nothing_and_says_nothing() -> None:
    module, data = Recorder(), digits(val_fraction=0, subset_size=100)
    one = quiet_trainer(max_epochs=1, num_sanity_val_steps=2)
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
    # Pinned, because accuracies on this test set are compared across versions.
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


# ---- the configuration group ----


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

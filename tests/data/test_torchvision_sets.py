"""The data sets that torchvision reads: sizes, classes, known images; files that are missing, damaged or cannot be downloaded."""

from __future__ import annotations

import dataclasses
import os
import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest

from noisescale.data import (
    Split,
    torchvision_sets,
)
from tests.helpers.images import known
from tests.helpers.refusals import error_of
from tests.helpers.repository import REPOSITORY


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every torchvision set have 40 + 20 images, and accept files with any content."""
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
    """Pickles like the dtypes in the real CIFAR files, which NumPy wrote in 2009 and about which NumPy 2.4.0 warns.

    The files have `dtype("u1", 0, 1)`; without the 1, later versions warn as well.
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


@pytest.mark.slow
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
        # torchvision 0.29 wraps every error of MNIST's mirrors, 0.26 only a URLError.
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

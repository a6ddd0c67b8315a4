"""Streamed images: bitwise the same batches as from images in memory; what is decoded when; what is refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.data import ImageFolderData, decoding
from noisescale.data.decoding import ImageFileError
from noisescale.data.images import ImageDataset
from noisescale.data.streaming import FileImages
from noisescale.errors import ConfigError
from noisescale.execution.loader import PlannedLoader
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Plan
from tests.helpers import images
from tests.helpers.images import images_of, kept, same, write_images
from tests.helpers.trainings import SaveAndDie, Stop, ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*use of fork", "ignore:.*worker processes in total")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 training and 4 test images of 16 x 16 pixels."""
    root = tmp_path_factory.mktemp("images")
    write_images(root, size=(16, 16), n=12)
    return root


def folder(root: Path, **changes: Any) -> ImageFolderData:
    return images.folder(root, **{"augment": "crop_flip", "val_fraction": 0.25, **changes})


class Net(pl.LightningModule):
    """A linear classifier with dropout that records its training batches."""

    def __init__(self, features: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(features, 2))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def train(data: ImageFolderData, *callbacks: pl.Callback, ckpt_path: Path | None = None) -> Net:
    """Train for three epochs with a growing batch, cut into micro-batches of at most 4."""
    net = Net(3 * 16 * 16)
    growing = batching.MultiStep(size=6, milestones=[1], factor=2, last="partial")
    batches = BatchSizeScheduler(growing, schedules.Cosine(), max_micro_batch_size=4, seed=5)
    quiet_trainer(batches, *callbacks).fit(net, datamodule=data, ckpt_path=ckpt_path)
    return net


@pytest.mark.parametrize(
    ("workers", "subset_size"),
    [(0, None), (2, 20), pytest.param(2, None, marks=pytest.mark.slow), pytest.param(0, 20, marks=pytest.mark.slow)],
)
def test_a_streamed_run_is_a_run_in_memory(workers: int, subset_size: int | None, root: Path, tmp_path: Path) -> None:
    reference = train(folder(root, in_memory=True, subset_size=subset_size))
    streamed = train(folder(root, in_memory=False, num_workers=workers, subset_size=subset_size))
    assert len(reference.seen) == len(streamed.seen) > 10
    for one, other in zip(reference.seen, streamed.seen, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert torch.equal(weights(reference), weights(streamed))
    with pytest.raises(Stop):
        train(folder(root, in_memory=False, num_workers=workers, subset_size=subset_size), SaveAndDie(8, tmp_path / "in.ckpt"))
    resumed = train(folder(root, in_memory=False, num_workers=workers, subset_size=subset_size), ckpt_path=tmp_path / "in.ckpt")
    assert len(resumed.seen) == len(reference.seen) - 8
    assert torch.equal(weights(resumed), weights(reference))


@pytest.mark.parametrize("changes", [{}, {"seed": 1}, {"subset_size": 10}, {"image_size": 8}])
def test_everything_but_the_place_of_the_images_is_equal(changes: dict[str, Any], root: Path) -> None:
    one, other = folder(root, **changes), folder(root, in_memory=False, **changes)
    assert same(images_of(one), images_of(other))
    for name in ("mean", "std", "num_examples", "class_names", "in_channels", "image_size"):
        assert getattr(one, name) == getattr(other, name)
    datasets: list[Any] = [data.val_dataloader().dataset for data in (one, other)]  # type: ignore[union-attr]
    assert isinstance(datasets[1].images, FileImages)
    assert not isinstance(datasets[0].images, FileImages)
    for a, b in zip(*(dataset.take(torch.tensor([1, 0])) for dataset in datasets), strict=True):
        assert torch.equal(a, b)


def test_auto_streams_what_does_not_fit(root: Path) -> None:
    needed = (24 + 4) * 3 * 16 * 16 / 1e9
    for limit, kind in ((needed, Tensor), (needed * 0.99, FileImages)):
        data = folder(root, memory_limit_gb=limit)
        data.setup()
        for loader in (data.train_dataloader(), data.test_dataloader()):
            dataset = loader.dataset
            assert isinstance(dataset, ImageDataset)
            assert isinstance(dataset.images, kind)


def test_a_batch_decodes_its_own_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(root, in_memory=False)
    data.setup()
    opened: list[str] = []
    original = decoding._pixels

    def counted(file: str, *arguments: Any) -> Any:
        opened.append(file)
        return original(file, *arguments)

    monkeypatch.setattr(decoding, "_pixels", counted)
    dataset: Any = data.train_dataloader().dataset
    dataset.take(torch.tensor([3, 11, 3]))
    files = [dataset.images.files[row] for row in dataset.rows[torch.tensor([3, 11, 3])].tolist()]
    assert opened == files
    copy = pickle.loads(pickle.dumps(dataset))  # as for spawned workers
    assert torch.equal(copy.take(torch.tensor([5]))[0], dataset.take(torch.tensor([5]))[0])


def test_workers_are_many_where_images_are_streamed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(cores: int, devices: int | None = None, **changes: Any) -> int:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
        data = folder(root, num_workers=changes.pop("num_workers", None), **changes)
        data.setup()
        if devices is not None:
            strategy = SimpleNamespace(root_device=torch.device("cpu"))
            data.trainer = SimpleNamespace(strategy=strategy, num_devices=devices)  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.utils.data.DataLoader.check_worker_number_rationality", lambda _: None)
            return data.train_dataloader().num_workers

    assert workers(3) == 0
    streamed: dict[str, Any] = {"in_memory": False}
    assert [workers(cores, **streamed) for cores in (1, 3, 64)] == [1, 3, 8]
    assert [workers(6, devices, **streamed) for devices in (1, 2, 8)] == [6, 3, 1]
    assert workers(6, num_workers=0, **streamed) == 0
    assert workers(6, num_workers=2) == 2


def test_streamed_images_stay_off_the_device(root: Path) -> None:
    data = folder(root, in_memory=False, num_workers=0)
    data.setup()
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    data.trainer = SimpleNamespace(strategy=strategy, num_devices=1)  # type: ignore[assignment]
    assert isinstance(data.train_dataloader().dataset.images, FileImages)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("bad", "subset_size"), [("train/cat/2.png", None), ("test/dog/1.png", None), ("train/dog/0.png", 24), ("test/cat/0.png", 6)]
)
def test_a_bad_file_is_refused_before_anything_is_trained(bad: str, subset_size: int | None, tmp_path: Path) -> None:
    write_images(tmp_path, n=12)
    (tmp_path / bad).write_bytes(b"broken")
    with pytest.raises(ConfigError, match=f"root=.*{tmp_path / bad} cannot be decoded"):
        folder(tmp_path, in_memory=False, subset_size=subset_size).setup()


def test_grey_and_sizes_are_found_as_in_memory(tmp_path: Path) -> None:
    write_images(tmp_path, mode="L")
    data = folder(tmp_path, in_memory=False)
    data.setup()
    assert data.in_channels == 1
    Image.new("RGB", (8, 6), "red").save(tmp_path / "train/dog/3.png")
    data = folder(tmp_path, in_memory=False)
    data.setup()
    assert data.in_channels == 3
    assert data.mean == pytest.approx(images_statistics(data)[0])
    Image.new("RGB", (9, 6)).save(tmp_path / "test/dog/1.png")
    with pytest.raises(ConfigError, match="9 x 6"):
        folder(tmp_path, in_memory=False).setup()


def images_statistics(data: ImageFolderData) -> tuple[list[float], list[float]]:
    dataset: Any = data.train_dataloader().dataset
    unit = dataset.take(torch.arange(len(dataset)))[0].double() / 255
    return unit.mean((0, 2, 3)).tolist(), unit.std((0, 2, 3), correction=0).tolist()


def test_the_sums_are_kept_whatever_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    folder(tmp_path, in_memory=False, cache=True).prepare_data()
    assert [path.name.split("-")[:2] for path in kept(tmp_path)] == [["test", "sums"], ["train", "sums"]]
    assert all(path.stat().st_size < 5000 for path in kept(tmp_path))
    monkeypatch.setattr(decoding, "_pixels", lambda *_: pytest.fail("a file was decoded"))
    found = []
    for seed in (0, 1):
        data = folder(tmp_path, in_memory=False, cache=True, seed=seed)
        data.setup()
        found.append((data.mean, data.std))
    monkeypatch.undo()
    for seed in (0, 1):
        data = folder(tmp_path, seed=seed)
        data.setup()
        assert (data.mean, data.std) == found[seed]
    assert found[0] != found[1]


def test_a_terminal_shows_the_progress(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    folder(root, in_memory=False).setup("fit")
    assert "decoding train images" in capsys.readouterr().err


def as_pair(batch: Any) -> dict[str, Tensor]:
    return {"images": batch[0], "labels": batch[1]}


def test_the_collate_function_is_kept_with_and_without_workers(root: Path) -> None:
    data = folder(root)
    data.setup("fit")
    plan = Plan(schedules.Constant(), batching.Fixed(size=8), data.num_examples, epochs=1)
    for workers in (0, 1):
        source = DataLoader(data.train_dataloader().dataset, batch_size=4, shuffle=True, collate_fn=as_pair, num_workers=workers)
        batches = list(PlannedLoader(lambda source=source: source, lambda n: plan, 0, 0, lambda: 0))  # type: ignore[misc]
        assert [sorted(batch) for batch in batches] == [["images", "labels"]] * len(batches)
        assert len(batches) > 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_bad_in_training_is_one_line(workers: int, tmp_path: Path) -> None:
    """The reason can be found in the error. From a worker, only the text of its traceback arrives."""

    write_images(tmp_path, size=(16, 16), n=12)

    class Spoiler(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for file in (tmp_path / "train").rglob("*.png"):
                file.write_bytes(b"no image")

    with pytest.raises(Exception, match=r"ImageFileError|cannot be used") as caught:
        train(folder(tmp_path, in_memory=False, num_workers=workers, cache=False), Spoiler())
    assert isinstance(caught.value, Exception)
    words = ImageFileError.reason_in(caught.value)
    assert words is not None
    assert words.startswith(str(tmp_path / "train"))
    assert words.count("\n") == 0
    assert "cannot be used (" in words
    assert ImageFileError.reason_in(RuntimeError("of another kind")) is None

"""A folder of images with a validation set of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from noisescale.data import image_cache, imagefolder
from tests.helpers.images import folder, images_of, kept, pixels_of, same, write_images
from tests.helpers.refusals import error_of
from tests.helpers.trainings import ignored, quiet_trainer

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def with_val(root: Path, name: str = "val") -> None:
    """6 training, 3 validation and 2 test images of each of two classes; those for validation were the last ones for training."""
    write_images(root, n=9)
    for file in list(root.glob("train/*/[678].png")):
        (root / name / file.parent.name).mkdir(parents=True, exist_ok=True)
        file.rename(root / name / file.parent.name / file.name)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that are said."""
    found: list[str] = []
    monkeypatch.setattr(imagefolder, "say_once", found.append)
    return found


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("changes", [{}, {"in_memory": False}, {"in_memory": False, "num_workers": 1}, {"cache": True}])
def test_a_val_folder_is_the_validation_set_and_all_of_train_trains(
    changes: dict[str, Any], name: str, tmp_path: Path, lines: list[str]
) -> None:
    with_val(tmp_path, name)
    data = folder(tmp_path, **changes)
    assert (data.train_size(), data.val_examples()) == (12, 6)
    data.prepare_data()
    assert lines == [f"note: the validation set is {tmp_path / name} (6 images); data.val_fraction does not apply"]
    train, test = images_of(data)
    assert (data.num_examples, len(train), len(test)) == (12, 12, 4)
    loader: Any = data.val_dataloader()
    ((images, labels),) = loader
    files = sorted((tmp_path / name).rglob("*.png"))
    np.testing.assert_array_equal(images.numpy(), np.stack([pixels_of(file) for file in files]))
    assert labels.tolist() == [0] * 3 + [1] * 3
    pixels = torch.as_tensor(np.stack([pixels_of(file) for file in sorted((tmp_path / "train").rglob("*.png"))]))
    assert data.mean == pytest.approx((pixels / 255).double().mean((0, 2, 3)).tolist())
    if "cache" in changes:
        assert [path.name.split("-")[0] for path in kept(tmp_path)] == ["test", "train", "val"]


def test_a_subset_is_taken_of_train_alone(tmp_path: Path) -> None:
    with_val(tmp_path)
    data = folder(tmp_path, subset_size=4)
    data.setup()
    assert (data.train_size(), data.num_examples, len(data.val_dataloader().dataset)) == (4, 4, 6)  # type: ignore[union-attr, arg-type]
    error_of(folder(tmp_path, subset_size=13).train_size, "subset_size", "12 examples")


def test_without_validation_the_val_folder_is_not_used(tmp_path: Path, lines: list[str]) -> None:
    with_val(tmp_path)
    data = folder(tmp_path, val_fraction=0)
    data.prepare_data()
    data.setup()
    assert (data.num_examples, data.val_dataloader()) == (12, [])
    assert lines == [f"note: data.val_fraction=0: {tmp_path / 'val'} is not used"]


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 2))
        self.steps = {"validation": 0, "test": 0}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.steps["validation"] += len(batch[1])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.steps["test"] += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_with_train_and_val_only_nothing_is_tested_and_a_line_says_so(tmp_path: Path, lines: list[str]) -> None:
    with_val(tmp_path)
    shutil.rmtree(tmp_path / "test")
    data, net = folder(tmp_path), Net()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(net, datamodule=data)
    assert trainer.test(net, datamodule=data, verbose=False) == []
    assert net.steps == {"validation": 6, "test": 0}
    assert trainer.limit_test_batches == 1.0, "the trainer's own value is back"
    assert lines[:2] == [
        f"note: the validation set is {tmp_path / 'val'} (6 images); data.val_fraction does not apply",
        f"note: there is no {tmp_path / 'test'}: the model is not tested, and results.json has no test metrics",
    ]


def test_faults_of_a_val_folder_are_one_line(tmp_path: Path) -> None:
    with_val(tmp_path)
    (tmp_path / "val/emu").mkdir()
    error_of(folder(tmp_path).train_size, "root", "train and val must have the same classes", tmp_path / "val/emu", "not in train")
    shutil.rmtree(tmp_path / "val/emu")
    shutil.rmtree(tmp_path / "val/dog")
    error_of(folder(tmp_path).train_size, "root", "same classes", tmp_path / "train/dog", "not in val")
    (tmp_path / "val/dog").mkdir()
    error_of(folder(tmp_path).train_size, "root", f"no images in {tmp_path / 'val/dog'}", ".png")
    (tmp_path / "validation").mkdir()
    error_of(folder(tmp_path).train_size, "root", tmp_path / "val", tmp_path / "validation", "both")
    shutil.rmtree(tmp_path / "validation")
    Image.new("RGB", (9, 6)).save(tmp_path / "val/dog/0.png")
    error_of(folder(tmp_path).setup, "image_size", tmp_path / "val/dog/0.png", "9 x 6")
    (tmp_path / "val/dog/0.png").write_bytes(b"broken")
    error_of(folder(tmp_path, in_memory=False).setup, "root", tmp_path / "val/dog/0.png", "cannot be decoded")


def test_the_memory_limit_counts_the_validation_set(tmp_path: Path) -> None:
    with_val(tmp_path)
    needed = (12 + 6 + 4) * 3 * 6 * 8 / 1e9
    folder(tmp_path, memory_limit_gb=needed, in_memory=True).setup()
    error_of(folder(tmp_path, memory_limit_gb=needed * 0.99, in_memory=True).setup, "memory_limit_gb", "18 training", "4 test")


def test_a_cache_of_another_way_to_decode_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    with monkeypatch.context() as before:
        before.setattr(image_cache, "VERSION", 1)
        before.setattr(
            imagefolder, "decode_images", lambda files, *, channels, size, **_: torch.zeros(len(files), channels, *size, dtype=torch.uint8)
        )
        assert int(images_of(folder(tmp_path, cache=True))[0].sum()) == 0
    assert len(kept(tmp_path)) == 2
    assert same(images_of(folder(tmp_path, cache=True)), images_of(folder(tmp_path)))
    assert len(kept(tmp_path)) == 2, "the old files have been removed"

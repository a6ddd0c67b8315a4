"""Folders of images: what is read, in which order, and the one-line error for each mistake."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.images import folder, images_of, pixels_of, same, write_images
from tests.helpers.refusals import error_of
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


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
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
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
def test_images_in_any_mode_are_read(mode: str, tmp_path: Path) -> None:
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
    stripes[:, 8:24] = 200  # the central square of an image that is twice as wide as high
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


# -- which files are examples -------------------------------------------------------------------------------------------------


def test_hidden_files_and_folders_hold_no_examples_at_any_depth(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "train/cat/young").mkdir()
    (tmp_path / "train/cat/2.png").rename(tmp_path / "train/cat/young/2.png")
    right = images_of(folder(tmp_path))
    hidden = (
        "train/cat/.ipynb_checkpoints/0-checkpoint.png",
        "train/cat/young/.thumbnails/2.png",
        "train/cat/young/.thumbnails/large/2.png",
        "train/.ipynb_checkpoints/cat/0.png",
        "test/dog/__MACOSX/dog/0.png",
        "test/dog/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "train/__MACOSX/cat/0.png",
        "test/__MACOSX/cat/._0.png",
        "train/cat/._0.png",
        "train/dog/young/.DS_Store",
    )
    for name in hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    data = folder(tmp_path, val_fraction=0)
    assert data.train_size() == 8
    assert same(images_of(folder(tmp_path)), right)
    assert data.train_examples() == 8


def test_a_hidden_folder_above_the_images_hides_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / ".cache/__MACOSX/images")
    assert folder(tmp_path / ".cache/__MACOSX/images", val_fraction=0).train_size() == 8

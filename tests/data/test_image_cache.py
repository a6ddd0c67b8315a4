"""The cache of decoded images: used if nothing has changed, rebuilt if anything has, always verified, and never an obstacle."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from noisescale.data import image_cache
from noisescale.errors import ConfigError
from tests.helpers import images
from tests.helpers.images import images_of, kept, same, write_images

folder = partial(images.folder, cache=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of files that each call decoded."""
    calls: list[int] = []
    from noisescale.data import imagefolder

    for name in ("decode_images", "sum_images"):
        original: Callable[..., Tensor] = getattr(imagefolder, name)

        def counted(files: list[str], original: Callable[..., Tensor] = original, **options: Any) -> Tensor:
            calls.append(len(files))
            return original(files, **options)

        monkeypatch.setattr(imagefolder, name, counted)
    return calls


def test_images_are_decoded_once_whatever_the_seed(root: Path, decoded: list[int]) -> None:
    for seed in range(3):
        found = folder(root, seed=seed)
        assert same(images_of(found), images_of(folder(root, seed=seed, cache=False)))
        decoded[-2:] = []  # without the calls of cache=False
    assert decoded == [8, 4]
    assert len(kept(root)) == 2
    again = folder(root, seed=2, cache=False)
    again.setup()
    assert (found.mean, found.std, found.image_size, found.in_channels) == (again.mean, again.std, (6, 8), 3)


def test_preparing_fills_the_cache(root: Path, decoded: list[int]) -> None:
    folder(root, cache=False).prepare_data()
    assert decoded == []
    folder(root).prepare_data()
    assert decoded == [8, 4]
    folder(root).setup()
    assert decoded == [8, 4]


def test_the_images_are_mapped_not_read(root: Path) -> None:
    for _ in range(2):
        data = folder(root)
        data.setup()
        dataset: Any = data.train_dataloader().dataset
        start, end = dataset.images.data_ptr(), dataset.images.data_ptr() + dataset.images.numel()
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()] if Path("/proc/self/maps").exists() else []
        files = {words[-1] for words in maps for low, high in [words[0].split("-")] if int(low, 16) < end and start < int(high, 16)}
        assert not maps or files == {str(path) for path in kept(root) if path.name.startswith("train")}


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def grow(path: Path) -> None:
    stamp = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(stamp, stamp))


def add(path: Path) -> None:
    Image.new("RGB", (8, 6), "red").save(path.with_name("new.png"))


def rename(path: Path) -> None:
    path.rename(path.with_name("0a.png"))


@pytest.mark.parametrize("change", [touch, grow, add, rename, Path.unlink])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_changed_folder_is_decoded_anew(change: Callable[[Path], None], split: str, root: Path, decoded: list[int]) -> None:
    images_of(folder(root))
    before = {path.name for path in kept(root)}
    decoded.clear()
    change(root / split / "dog" / "1.png")
    found = images_of(folder(root))
    assert len(decoded) == 1
    assert len(kept(root)) == 2, "the old file is still there"
    changed = {path.name for path in kept(root)} - before
    assert [name.split("-")[0] for name in changed] == [split]
    assert same(found, images_of(folder(root, cache=False)))


def test_other_pixels_of_a_file_are_seen(root: Path) -> None:
    before = images_of(folder(root))
    path = root / "train/cat/0.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert not same(images_of(folder(root)), before)
    assert same(images_of(folder(root)), images_of(folder(root, cache=False)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def cut_in_the_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def of_another_folder(path: Path) -> None:
    content = path.read_bytes()
    place = content.index(b'"mark": "') + 9
    path.write_bytes(content[:place] + b"0" * 32 + content[place + 32 :])


def of_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(f'"noisescale": {image_cache.VERSION}'.encode(), b'"noisescale": 0', 1))


def no_numbers(path: Path) -> None:
    path.write_bytes(b'{"shape": 3, "dtype": "object"}'.ljust(path.stat().st_size))


def a_list(path: Path) -> None:
    path.write_bytes(b"[]".ljust(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [cut, longer, cut_in_the_head, empty, foreign, of_another_folder, of_another_version, no_numbers, a_list]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_made_anew(damage: Callable[[Path], None], root: Path, decoded: list[int]) -> None:
    right = images_of(folder(root))
    for path in kept(root):
        damage(path)
    decoded.clear()
    assert same(images_of(folder(root)), right)
    assert decoded == [8, 4]
    assert same(images_of(folder(root)), right)
    assert decoded == [8, 4]


@pytest.mark.parametrize("blocked", ["folder", "file"])
def test_where_nothing_can_be_written_the_run_goes_on_and_says_so_once(
    blocked: str, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocked == "folder":
        (root / ".noisescale").write_text("in the way")
    else:
        images_of(folder(root))
        for path in kept(root):
            a_folder(path)
    image_cache.say_once.cache_clear()
    for _ in range(2):
        assert same(images_of(folder(root)), images_of(folder(root, cache=False)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: decoded images are not cached: {root / '.noisescale'} cannot be written to (")
    assert not list(root.rglob(".part-*"))


def test_a_failed_write_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert same(images_of(folder(root)), images_of(folder(root, cache=False)))
    assert kept(root) == []


def test_what_cannot_be_removed_is_left_and_what_was_killed_is_removed(root: Path) -> None:
    cache = image_cache.ImageCache(root / ".noisescale")
    values, mark = torch.arange(6, dtype=torch.uint8), "0" * 32
    cache.keep("train", mark, values)
    (root / ".noisescale" / f"train-{'1' * 32}").mkdir()
    old, young = (root / ".noisescale" / f".part-{number}-0" for number in (1, 2))
    for part in (old, young):
        part.touch()
    os.utime(old, (0, 0))
    assert torch.equal(cache.keep("train", "2" * 32, values), values)
    assert not (root / ".noisescale" / f"train-{mark}").exists()
    assert not old.exists()
    assert young.exists()


def test_sizes_and_colours_are_kept_apart(root: Path, decoded: list[int]) -> None:
    for image_size in (None, 4, 6):
        images_of(folder(root, image_size=image_size))
    assert len(kept(root)) == 6
    decoded.clear()
    assert images_of(folder(root, image_size=4))[0].shape == (7, 3, 4, 4)
    assert decoded == []


def test_a_subset_is_decoded_alone_and_not_kept(root: Path, decoded: list[int]) -> None:
    data = folder(root, subset_size=4)
    data.setup("fit")
    assert decoded == [4]
    assert not (root / ".noisescale").exists()
    data.setup("test")  # the subset does not apply to the test set
    assert [path.name.split("-")[0] for path in kept(root)] == ["test"]


def test_grey_images_with_one_of_colour(tmp_path: Path, decoded: list[int]) -> None:
    write_images(tmp_path, mode="L")
    assert images_of(folder(tmp_path))[0].shape[1] == 1
    Image.new("RGB", (8, 6), "red").save(tmp_path / "train/dog/3.png")
    decoded.clear()
    assert images_of(folder(tmp_path, image_size=4))[0].shape[1] == 3
    assert decoded == [8, 8, 4], "grey was tried first"
    decoded.clear()
    assert images_of(folder(tmp_path, image_size=4))[0].shape[1] == 3
    assert decoded == []


@pytest.mark.parametrize("bad", ["train/cat/2.png", "test/dog/1.png"])
def test_a_file_that_went_bad_is_refused_although_it_was_kept(bad: str, root: Path) -> None:
    images_of(folder(root))
    (root / bad).write_bytes(b"broken")
    with pytest.raises(ConfigError, match=f"{root / bad} cannot be decoded"):
        images_of(folder(root))


def test_a_file_that_has_gone_is_named(root: Path) -> None:
    data = folder(root)
    data.train_examples()
    (root / "train/dog/1.png").unlink()
    with pytest.raises(ConfigError, match=f"{root / 'train/dog/1.png'} no longer exists"):
        data.setup()

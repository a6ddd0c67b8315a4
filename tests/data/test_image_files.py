"""What is listed in a folder of images: links are followed, and nothing is opened that is no file."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from noisescale.data.image_files import list_images
from noisescale.errors import ConfigError
from tests.helpers.images import folder, images_of, write_images


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_dead_link(path: Path) -> None:
    path.symlink_to("nowhere.png")


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name(".pipe"))
    path.symlink_to(".pipe")


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("put", "problem"),
    [
        (a_pipe, "is a pipe, a socket or a device, and not an image"),
        (a_link_to_a_pipe, "is a pipe, a socket or a device, and not an image"),
        (a_socket, "is a pipe, a socket or a device, and not an image"),
        (a_device, "is a pipe, a socket or a device, and not an image"),
        (a_dead_link, "is a link to nothing, and not an image"),
        (a_link_to_itself, "cannot be read (Too many levels of symbolic links)"),
    ],
)
def test_what_is_no_file_is_refused_and_not_opened(put: Callable[[Path], None], problem: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    put(tmp_path / "train" / "dog" / "9.png")
    with pytest.raises(ConfigError) as refused:
        list_images(tmp_path)
    assert str(refused.value) == f"root={tmp_path}: {tmp_path}/train/dog/9.png {problem}; repair or remove it"


def test_a_folder_that_is_linked_into_itself_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "train" / "dog" / "again").symlink_to(tmp_path / "train" / "dog")
    with pytest.raises(ConfigError, match="train/dog/again is a link to a folder that it is in; repair or remove it"):
        list_images(tmp_path)


def test_links_to_images_and_to_folders_are_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    write_images(tmp_path / "more", classes=("a",), n=2)
    cat = tmp_path / "images" / "train" / "cat"
    (cat / "linked").symlink_to(tmp_path / "more" / "train" / "a")
    (cat / "twice").symlink_to(tmp_path / "more" / "train" / "a")
    (cat / "one.png").symlink_to(tmp_path / "more" / "train" / "a" / "0.png")
    (tmp_path / "images" / "train" / "a").symlink_to(tmp_path / "more" / "train" / "a")
    (tmp_path / "images" / "test" / "a").symlink_to(tmp_path / "more" / "test" / "a")
    listed = list_images(tmp_path / "images")
    assert {cls: len(files) for cls, files in listed["train"].items()} == {"a": 2, "cat": 9, "dog": 4}
    assert listed["train"]["cat"] == sorted(listed["train"]["cat"])


@pytest.mark.parametrize("suffix", ["jfif", "JFIF", "gif"])
def test_other_names_of_images(suffix: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    image = Image.new("RGB", (8, 6), "red")
    image.save(tmp_path / "train" / "dog" / f"x.{suffix}", format="JPEG" if suffix.lower() == "jfif" else "GIF")
    data = folder(tmp_path, val_fraction=0)
    assert len(images_of(data)[0]) == 2 * 4 + 1


def test_files_that_are_no_images_by_their_names_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path)
    for name in ("train/cat/a.txt", "train/dog/b.txt", "test/dog/c.heic", "train/dog/README", "train/dog/.hidden"):
        (tmp_path / name).touch()
    data = folder(tmp_path)
    data.prepare_data()
    assert (
        capsys.readouterr().err
        == "note: not used, because their names do not end as those of images do: .txt (2), no suffix (1), .heic (1)\n"
    )

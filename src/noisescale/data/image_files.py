"""The image files of a folder, by split and class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from noisescale.data.images import Split
from noisescale.data.progress import progress_bar
from noisescale.errors import ConfigError

__all__ = ["Listing", "list_images"]

VAL_FOLDERS = ("val", "valid", "validation")
LAYOUT = "data.root needs train/<class>/, and test/<class>/ or val/<class>/, with images"
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NO_IMAGES = frozenset({"__MACOSX", "@eaDir"})  # what macOS puts into archives; thumbnails of network storage


class Listing(dict[Split, dict[str, list[str]]]):
    """Split -> class -> image files, with classes and files sorted. `train` is there, and `val` or `test` or both.

    Attributes:
        val_folder: the folder of `val`, if there is one.
        left_out: suffix -> number of files that are no images by their suffix, such as .txt; an empty suffix is that of files without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.val_folder: Path | None = None
        self.left_out: Counter[str] = Counter()


def list_images(root: Path) -> Listing:
    """The images in `root`/<split>/<class>/, at any depth below the class.

    Files and folders whose names start with a dot hold no examples, at any depth (`.ipynb_checkpoints/`, `.thumbnails/`, `._x.jpg`), nor
    do the folders `NO_IMAGES`. The folder of the validation images is val/, valid/ or validation/. Links to files and folders are followed.

    Raises:
        ConfigError: `root`, a split, the classes or the images of a class are missing, the splits have different classes, there is
            more than one folder of validation images, or an image is not a file: a link to nothing, a pipe, a folder that contains itself.
    """

    def refuse(problem: str, remedy: str = LAYOUT) -> NoReturn:
        raise ConfigError("root", root, problem, remedy)

    folder = root.expanduser()
    if not folder.is_dir():
        refuse("no such folder")
    val = [name for name in VAL_FOLDERS if (folder / name).is_dir()]
    if len(val) > 1:
        refuse(f"{root / val[0]} and {root / val[1]} are both there", "keep one folder of validation images")
    folders: dict[Split, str] = {"train": "train"}
    if val:
        folders["val"] = val[0]
    if not val or (folder / "test").is_dir():
        folders["test"] = "test"
    listed = Listing()
    listed.val_folder = root / val[0] if val else None
    for split, name in folders.items():
        if not (folder / name).is_dir():
            refuse(f"no folder {root / name}")
        classes = sorted(entry.name for entry in os.scandir(folder / name) if entry.is_dir() and _holds_images(entry.name))
        if not classes:
            refuse(f"no class folders in {root / name}")
        listed[split] = {}
        with progress_bar(f"listing {root / name}", len(classes)) as advance:
            try:
                for cls in classes:
                    listed[split][cls] = sorted(_images_below(os.path.join(folder, name, cls), listed.left_out))
                    advance(1)
            except _NotAFileError as error:
                refuse(str(error), "repair or remove it")
            except OSError as error:
                refuse(f"{error.filename} cannot be read ({error.strerror})", "repair or remove it")
    for split in listed:
        pairs: tuple[tuple[Split, Split], ...] = ((split, "train"), ("train", split))
        for one, other in pairs:
            alone = [str(root / folders[one] / cls) for cls in listed[one] if cls not in listed[other]]
            if alone:
                shown = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
                refuse(f"train and {folders[split]} must have the same classes: {shown} not in {folders[other]}")
    for split, name in folders.items():
        for cls, files in listed[split].items():
            if not files:
                refuse(f"no images in {root / name / cls}", f"images end in {', '.join(sorted(SUFFIXES))}")
    return listed


def _holds_images(folder: str) -> bool:
    return not folder.startswith(".") and folder not in NO_IMAGES


class _NotAFileError(Exception):
    """What has the name of an image and is not a file."""


def _images_below(folder: str, left_out: Counter[str], above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The images in a folder and in those inside it.

    Args:
        folder: where to look.
        left_out: where files with other suffixes are counted.
        above: the real paths of the folders that it is in.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise _NotAFileError(f"{folder} is a link to a folder that it is in")
    above |= {real}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if _holds_images(entry.name):
                    yield from _images_below(entry.path, left_out, above)
            elif not entry.name.startswith("."):
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix not in SUFFIXES:
                    left_out[suffix] += 1
                elif not entry.is_file():  # opening a pipe would wait forever
                    what = "a link to nothing" if entry.is_symlink() and not os.path.exists(entry.path) else "a pipe, a socket or a device"
                    raise _NotAFileError(f"{entry.path} is {what}, and not an image")
                else:
                    yield entry.path

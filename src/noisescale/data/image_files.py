"""The image files of a folder, by split and class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from noisescale.data.images import Split
from noisescale.data.progress import progress_bar
from noisescale.errors import ConfigError

__all__ = ["Listing", "list_images"]

VAL_FOLDERS = ("val", "valid", "validation")
LAYOUT = "data.root needs train/<class>/, and test/<class>/ or val/<class>/, with images"
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NO_IMAGES = frozenset({"__MACOSX", "@eaDir"})  # what macOS puts into archives; thumbnails of network storage


class Listing(dict[Split, dict[str, list[str]]]):
    """Split -> class -> image files, with classes and files sorted. `train` is there, and `val` or `test` or both.

    Attributes:
        val_folder: the folder of `val`, if there is one.
    """

    val_folder: Path | None = None


def list_images(root: Path) -> Listing:
    """The images in `root`/<split>/<class>/, at any depth below the class.

    Files and folders whose names start with a dot hold no examples, at any depth (`.ipynb_checkpoints/`, `.thumbnails/`, `._x.jpg`), nor
    do the folders `NO_IMAGES`. The folder of the validation images is val/, valid/ or validation/.

    Raises:
        ConfigError: `root`, a split, the classes or the images of a class are missing, the splits have different classes, or there is
            more than one folder of validation images.
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
            for cls in classes:
                listed[split][cls] = _images_below(folder / name / cls)
                advance(1)
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


def _images_below(folder: Path) -> list[str]:
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = filter(_holds_images, folders)  # os.walk goes on into these only
        found += [os.path.join(path, name) for name in names if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES]
    return sorted(found)

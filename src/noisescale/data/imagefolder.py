"""Any folder of images: train/<class>/, val/<class>/ and test/<class>/, decoded once and cached, or streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisescale.data.datamodule import ImageDataModule
from noisescale.data.decoding import ImageFileError, NotGreyError, OtherSizeError, decode_images, image_header, sum_images
from noisescale.data.image_cache import ImageCache, say_once
from noisescale.data.image_files import Listing, list_images
from noisescale.data.images import Examples, Images, Split
from noisescale.data.streaming import FileImages
from noisescale.errors import ConfigError, check_count

__all__ = ["ImageFolderData"]


LARGEST = 10_000
"""The largest image_size, in pixels: 0.3 GB for one colour image."""


class ImageFolderData(ImageDataModule):
    """Images in `root`/train/<class>/, val/<class>/ and test/<class>/, at any depth below the class; the classes are in sorted order.

    If there is a val/ (or valid/, or validation/), it is the validation set, and all of train/ is for training, unless val_fraction is 0.
    Beside it, test/ may be missing; the model is then not tested. Hidden files and folders are ignored, see `image_files`.

    Images are turned upright, as their EXIF orientation says, and brought to 8 bits per channel, see `decoding`; all are converted to RGB
    unless all training images are grey. Transparency is dropped, and of several images in one file the first is used.

    Args:
        root: the folder, relative to the current directory.
        image_size: in pixels: the shorter side is resized to it (bilinear), then the centre is cropped to a square.
            None: the images are used as they are and must all have the same size.
        cache: whether decoded images are cached in `root`/.noisescale. What is cached is all images of a split, if they are in memory
            and no subset is taken, so that a run never decodes more than it needs. Of streamed images it is only the pixel sums.
        common: the arguments of `ImageDataModule`. Images that are not in memory are decoded when their batch is fetched.
    """

    free_on_resume = ImageDataModule.free_on_resume | {"root", "cache"}

    def __init__(self, *, root: str | None, image_size: int | None, cache: bool, **common: Any) -> None:
        super().__init__(**common)
        if not isinstance(root, (str, Path)) or not str(root):
            value = "null" if root is None else root
            raise ConfigError("root", value, "imagefolder needs a folder with train/ and test/", "set data.root")
        if image_size is not None:
            check_count("image_size", image_size, at_most=LARGEST, unit="pixels", remedy="null uses the images as they are")
        if not isinstance(cache, bool):
            raise ConfigError("cache", cache, "must be true or false")
        self.root = Path(root)
        self.resize_to = image_size
        self.cache = ImageCache(self.root.expanduser() / ".noisescale" if cache else None)
        self._listed: Listing | None = None
        self._streams = False

    def train_examples(self) -> int:
        return _count(self._files()["train"])

    def val_examples(self) -> int | None:
        """The number of images in val/; None if there is no such folder, or if nothing is to be validated."""
        return _count(self._files()["val"]) if "val" in self._files() and self.val_fraction > 0 else None

    def has_test(self) -> bool:
        return "test" in self._files()

    def prepare_data(self) -> None:
        """Decode what is to be cached; Lightning calls this in one process only, so that the others find it in the cache.

        A line on the standard error says which validation set is used, if there is a choice, and that there is no test set.
        """
        notes = []
        if self.val_examples() is not None:
            count = f"{self.val_examples()} images"
            notes.append(f"note: the validation set is {self._files().val_folder} ({count}); data.val_fraction does not apply")
        elif "val" in self._files():
            notes.append(f"note: data.val_fraction=0: {self._files().val_folder} is not used")
        if self._files().left_out:
            counts = ", ".join(f"{suffix or 'no suffix'} ({count})" for suffix, count in self._files().left_out.most_common(5))
            notes.append(f"note: not used, because their names do not end as those of images do: {counts}")
        if not self.has_test():
            notes.append(f"note: there is no {self.root / 'test'}: the model is not tested, and results.json has no test metrics")
        for note in notes:
            say_once(note)
        if self.cache.folder is not None:
            self.setup()

    def explain(self, error: BaseException) -> ConfigError | None:
        """The error that names the streamed image that could not be read, and the reason."""
        reason = ImageFileError.reason_in(error)
        if reason is None:
            return None
        return ConfigError("root", self.root, f"an image changed during the run: {reason}", "repair it, then resume with ckpt_path")

    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        by_class = self._files()[split]
        names = tuple(by_class)
        labels = torch.arange(len(names)).repeat_interleave(torch.tensor([len(by_class[name]) for name in names]))
        files = [file for name in names for file in by_class[name]]
        chosen = select(labels)
        # The whole split is decoded in the order of the folder, whatever the seed, so it can be cached; a subset is decoded alone.
        whole = len(chosen) == len(files)
        rows = chosen if whole else torch.arange(len(chosen))
        files = files if whole else [files[i] for i in chosen.tolist()]
        try:
            images, sums = self._images(split, files, self.cache if whole else ImageCache(None))
            return Examples(images, labels[chosen], names, rows, resident=not self._streams, sums=sums)
        except OtherSizeError as error:
            problem = f"{error.file} {error.problem} like the first training image"
            raise ConfigError("image_size", "null", problem, "set data.image_size to resize all") from None
        except NotGreyError as error:
            problem = f"{error.file} {error.problem}, but all training images are grey"
            raise ConfigError("root", self.root, problem, "make the images all grey or all colour") from None
        except ImageFileError as error:
            problem = f"{error.file} cannot be decoded ({error.problem})"
            raise ConfigError("root", self.root, problem, "repair or remove the file") from None

    def _images(self, split: Split, files: list[str], cache: ImageCache) -> tuple[Images, Tensor | None]:
        if split != "train":  # setup() has already read the training images, which decide on the channels and the size
            mark = cache.mark(self.root, files, self.image_size)
            return self._images_as(split, files, cache, mark, self.in_channels, self.image_size)
        grey, size = image_header(files[0])
        if self.resize_to is not None:
            size = (self.resize_to, self.resize_to)
        mark = cache.mark(self.root, files, size)
        # Opening every file just for its mode would take a large part of the time of decoding it. So assume that all images are grey
        # if the first one is, and start again in RGB at the first image that is not.
        if grey and not any(cache.has(self._name(split, kind, 3), mark) for kind in ("images", "sums")):
            try:
                return self._images_as(split, files, cache, mark, 1, size)
            except NotGreyError:
                pass
        return self._images_as(split, files, cache, mark, 3, size)

    def _images_as(
        self, split: Split, files: list[str], cache: ImageCache, mark: str, channels: int, size: tuple[int, int]
    ) -> tuple[Images, Tensor | None]:
        if split == "train":
            test = _count(self._files()["test"]) if self.has_test() else 0
            count = len(files) + (self.val_examples() or 0)
            self._streams = not self.fits(count, test, (channels, *size), "data.image_size or data.subset_size")
        resize = self.resize_to is not None
        # Streamed images are all decoded once at the start, too: to find damaged files, and for the sums.
        kind, decode = ("sums", sum_images) if self._streams else ("images", decode_images)
        name = self._name(split, kind, channels)
        found = cache.find(name, mark)
        if found is None:
            title = f"decoding {split} images"
            found = cache.keep(name, mark, decode(files, channels=channels, size=size, resize=resize, title=title))
        return (FileImages(files, channels, size, resize), found) if self._streams else (found, None)

    def _name(self, split: Split, kind: str, channels: int) -> str:
        return f"{split}-{kind}-{'grey' if channels == 1 else 'rgb'}-{self.resize_to or 'as-is'}"

    def _files(self) -> Listing:
        # Listed only once, so that the number of files cannot change between `train_examples` and `read`.
        if self._listed is None:
            self._listed = list_images(self.root)
        return self._listed


def _count(by_class: dict[str, list[str]]) -> int:
    return sum(map(len, by_class.values()))

"""Decodes image files into uint8 tensors: upright, 8 bits per channel, grey or RGB; every file is decoded completely."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from noisescale.data.images import channel_sums
from noisescale.data.progress import progress_bar

__all__ = ["ImageFileError", "NotGreyError", "OtherSizeError", "decode_batch", "decode_images", "image_header", "sum_images"]

T = TypeVar("T")

GREY_MODES = frozenset({"1", "L", "LA", "La"})
UNSIGNED_16_BIT = frozenset({"PNG", "PPM"})  # formats whose mode I, of 32 bits, holds values of at most 65535
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF
CHUNK = 64  # files per task: large enough to keep the threads busy, small enough for a smooth progress bar


class ImageFileError(Exception):
    """A file that cannot be used as an image: `file`, and the reason `problem`, as a phrase."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        return f"{self.file} cannot be used ({self.problem})"

    @classmethod
    def reason_in(cls, error: BaseException) -> str | None:
        """The message of such an error, raised in this process or in a worker of a DataLoader; None for any other error."""
        if isinstance(error, cls):
            return str(error)
        # A worker sends its traceback as text; the last line contains the name of the class and the message.
        _, found, reason = str(error).rpartition(f"{cls.__name__}: ")
        return reason.strip() if found else None


class NotGreyError(ImageFileError):
    """A colour image, although one channel was asked for."""


class OtherSizeError(ImageFileError):
    """An image whose size is not the one asked for, without resizing."""


def image_header(file: str) -> tuple[bool, tuple[int, int]]:
    """Whether an image is grey, and its (h, w) in pixels as it is meant to be seen. The image is decoded: some formats tell only then.

    Raises:
        ImageFileError: the file cannot be read as an image.
    """
    image = _opened(file)
    return image.mode in GREY_MODES, (image.height, image.width)


def decode_batch(files: Sequence[str], *, channels: int, size: tuple[int, int], resize: bool) -> Tensor:
    """Decode `files` in the calling thread.

    Args:
        channels: 1 (grey) or 3 (RGB).
        size: (h, w) of the result, in pixels.
        resize: bring images to `size` by resizing and a central crop; otherwise every image must have that size.

    Returns:
        uint8, shape (n, channels, h, w).

    Raises:
        ImageFileError: for the first file, in order, that is truncated, unreadable, or of a depth that `_of_8_bits` refuses.
        NotGreyError, OtherSizeError: likewise, for a file that does not have the channels or the size asked for.
    """
    images = torch.empty((len(files), channels, *size), dtype=torch.uint8)
    for row, file in zip(images.numpy(), files, strict=True):
        row[...] = _pixels(file, channels, size, resize)
    return images


def decode_images(files: Sequence[str], *, channels: int, size: tuple[int, int], resize: bool, title: str) -> Tensor:
    """Like `decode_batch`, but in several threads and with a progress bar named `title`, which is shown only in a terminal."""
    images = torch.empty((len(files), channels, *size), dtype=torch.uint8)

    def decode(start: int, stop: int) -> None:
        images[start:stop] = decode_batch(files[start:stop], channels=channels, size=size, resize=resize)

    for _ in _in_threads(decode, len(files), title):
        pass
    return images


def sum_images(files: Sequence[str], *, channels: int, size: tuple[int, int], resize: bool, title: str) -> Tensor:
    """Decode `files` as `decode_images` does, but keep only the `channel_sums` of each image: int64 (n, channels, 3)."""

    def add_up(start: int, stop: int) -> Tensor:
        images = decode_batch(files[start:stop], channels=channels, size=size, resize=resize)
        return torch.stack([channel_sums(image) for image in images.split(1)])

    return torch.cat(list(_in_threads(add_up, len(files), title)))


def _in_threads(work: Callable[[int, int], T], count: int, title: str) -> Iterator[T]:
    """work(start, stop) for chunks of `count` files, in order, so that the same one of several bad files is always named."""
    with progress_bar(title, count) as advance, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        starts = range(0, count, CHUNK)
        tasks = [pool.submit(work, start, min(start + CHUNK, count)) for start in starts]
        try:
            for start, task in zip(starts, tasks, strict=True):
                yield task.result()
                advance(min(CHUNK, count - start))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pixels(file: str, channels: int, size: tuple[int, int], resize: bool) -> npt.NDArray[np.uint8]:
    image = _opened(file)
    try:
        return _fitted(image, file, channels, size, resize)
    except ImageFileError:
        raise
    except Exception as error:
        raise ImageFileError(file, _reason(error)) from None


def _opened(file: str) -> Image.Image:
    """The decoded image, upright and in a mode of 8 bits per channel."""
    try:
        # Not Image.open(file): given a path, Pillow 13 maps an uncompressed TIFF into memory with width and height exchanged, if its
        # orientation exchanges them.
        with open(file, "rb") as content, Image.open(content) as opened:
            opened.load()  # verify() would not notice a truncated JPEG
            return _of_8_bits(_upright(opened), opened, file)
    except ImageFileError:
        raise
    except Exception as error:  # decoders raise all kinds of errors: OSError, SyntaxError, struct.error, ...
        raise ImageFileError(file, _reason(error)) from None


def _upright(image: Image.Image) -> Image.Image:
    """`image`, turned and mirrored as its EXIF orientation says. Pillow does that by itself when it loads a TIFF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF data that cannot be parsed say nothing
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _of_8_bits(image: Image.Image, opened: Image.Image, file: str) -> Image.Image:
    """round(255 v / v_max) of unsigned grey images of 12 or 16 bits, v_max = 4095 or 65535; images of 8 bits as they are.

    Pillow reads colour images of 16 bits as 8 bits, the high byte of each value, which is at most one level off. Signed integers, integers
    of 32 bits and floats have no known range and are refused.

    Args:
        image: the pixels.
        opened: the same image as it was opened, which knows the format and the tags.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    if not image.mode.startswith("I;16") and not (image.mode == "I" and opened.format in UNSIGNED_16_BIT):
        raise ImageFileError(file, f"mode {image.mode}: only images of 8 bits and unsigned ones of 16 bits are read")
    tags = getattr(opened, "tag_v2", {})
    highest = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    values = (np.asarray(image).astype(np.uint32) * 255 + highest // 2) // highest
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # Pillow inverts it only for up to 8 bits
        values = 255 - values
    return Image.fromarray(values.astype(np.uint8))


def _fitted(image: Image.Image, file: str, channels: int, size: tuple[int, int], resize: bool) -> npt.NDArray[np.uint8]:
    if channels == 1 and image.mode not in GREY_MODES:
        raise NotGreyError(file, "is a colour image")
    if not resize and (image.height, image.width) != size:
        raise OtherSizeError(file, f"is {image.width} x {image.height} pixels (width x height), not {size[1]} x {size[0]}")
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns about palettes with transparency when they are converted straight to RGB
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if resize:
        image = _resized_and_cropped(image, size)
    array = np.asarray(image)
    return array[np.newaxis] if channels == 1 else array.transpose(2, 0, 1)


def _resized_and_cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    scale = max(height / image.height, width / image.width)
    w, h = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if (w, h) != image.size:
        image = image.resize((w, h), Image.Resampling.BILINEAR)
    left, top = (w - width) // 2, (h - height) // 2
    return image.crop((left, top, left + width, top + height))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Image files as they are found: which way up, of which depth, in which mode; each against the pixels that were written."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from noisescale.data.decoding import ImageFileError, decode_batch, image_header
from tests.helpers.images import folder, images_of, same, write_images

Array = npt.NDArray[Any]


def decoded(file: Path, channels: int | None = None) -> Array:
    """The pixels of a file, (h, w) if it is grey and (h, w, 3) if it is not; `channels` decodes it as 1 or 3 whatever it is."""
    grey, size = image_header(str(file))
    wanted = channels or (1 if grey else 3)
    pixels = decode_batch([str(file)], channels=wanted, size=size, resize=False)[0].permute(1, 2, 0).numpy()
    return pixels[:, :, 0] if wanted == 1 else pixels


# -- which way up -------------------------------------------------------------------------------------------------------------

UPRIGHT: dict[int, Callable[[Array], Array]] = {  # EXIF 2.32, tag 274: which side of the scene row 0 and column 0 are
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(("kind", "options"), [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("jpg", {"quality": 100})])
def test_images_are_turned_upright(kind: str, options: dict[str, Any], depth: Any, tmp_path: Path) -> None:
    if kind == "jpg" and depth is np.uint16:
        pytest.skip("JPEG has 8 bits")
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    for orientation, upright in UPRIGHT.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        file = tmp_path / f"{orientation}.{kind}"
        Image.fromarray(pixels.astype(depth) * (257 if depth is np.uint16 else 1)).save(file, exif=exif, **options)
        found, right = decoded(file, channels=1), upright(pixels)
        assert found.shape == right.shape
        assert np.abs(found.astype(int) - right).max() <= (4 if kind == "jpg" else 0), f"orientation {orientation}"


def test_a_folder_of_turned_images_is_the_folder_of_upright_ones(tmp_path: Path) -> None:
    write_images(tmp_path, size=(8, 6))
    right = images_of(folder(tmp_path))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for file in list(tmp_path.rglob("[02].png")):  # 0.png is the first one, which decides on the size
        with Image.open(file) as image:
            image.rotate(90, expand=True).save(file, exif=turned)
    for changes in ({}, {"in_memory": False}, {"in_memory": False, "num_workers": 1}):
        data = folder(tmp_path, **changes)
        assert same(images_of(data), right)
        assert data.image_size == (6, 8)


def test_exif_data_that_cannot_be_parsed_are_ignored(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for name, exif in (("no.png", b"Exif\0\0no exif data"), ("cut.png", b"Exif\0\0MM\0*\0\0\0\x08\0")):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(decoded(tmp_path / name), pixels)


# -- of which depth -----------------------------------------------------------------------------------------------------------

ALL_16_BIT = np.arange(65_536, dtype=np.uint16).reshape(256, 256)


def tiff(pixels: bytes, width: int, *, bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed TIFF with a single row. sample_format: 1 unsigned, 2 signed; photometric: 0 white is 0, 1 black is 0."""
    entries = (
        (256, width),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 134),
        (277, 1),
        (278, 1),
        (279, len(pixels)),
        (339, sample_format),
    )
    ifd = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + ifd + struct.pack("<I", 0) + pixels


def png_16_bit_rgb(pixels: Array) -> bytes:
    """A PNG of (h, w, 3) values of 16 bits, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "pgm", "tif", "big-endian tif"])
def test_grey_images_of_16_bits_are_scaled_not_cut_off(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"0.{kind.split()[-1]}"
    Image.fromarray(ALL_16_BIT.astype(">u2") if "big" in kind else ALL_16_BIT).save(file)
    np.testing.assert_array_equal(decoded(file, channels=1), np.rint(ALL_16_BIT / 257))
    assert image_header(str(file)) == (True, (256, 256))


def test_zero_is_white_if_the_tags_say_so(tmp_path: Path) -> None:
    for bits, pixels in ((8, bytes([0, 1, 255])), (16, struct.pack("<3H", 0, 257, 65_535))):
        for photometric, right in ((0, [255, 254, 0]), (1, [0, 1, 255])):
            (tmp_path / "0.tif").write_bytes(tiff(pixels, 3, bits=bits, photometric=photometric))
            assert decoded(tmp_path / "0.tif").tolist() == [right]


def test_images_of_12_bits_are_scaled_by_their_own_maximum(tmp_path: Path) -> None:
    (tmp_path / "0.tif").write_bytes(tiff(bytes([0xFF, 0xF0, 0x00, 0x80, 0x0F, 0xFF]), 4, bits=12))  # 4095, 0, 2048, 4095
    (tmp_path / "0.pgm").write_bytes(b"P5 4 1 4095\n" + struct.pack(">4H", 4095, 0, 2048, 4095))
    for name in ("0.tif", "0.pgm"):
        assert decoded(tmp_path / name).tolist() == [[255, 0, 128, 255]], name


def test_colour_images_of_16_bits_are_at_most_one_level_off(tmp_path: Path) -> None:
    pixels = np.stack([ALL_16_BIT, ALL_16_BIT.T, ALL_16_BIT[::-1]], axis=2)
    (tmp_path / "0.png").write_bytes(png_16_bit_rgb(pixels))
    found = decoded(tmp_path / "0.png").astype(float)
    assert np.abs(found - pixels / 257).max() < 1.0


def test_depths_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 4), dtype=np.int32)).save(tmp_path / "32.tif")
    Image.fromarray(np.zeros((1, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "signed.tif").write_bytes(tiff(struct.pack("<4h", -1, 0, 1, 300), 4, bits=16, sample_format=2))
    for name in ("32.tif", "float.tif", "signed.tif"):
        with pytest.raises(ImageFileError, match=r"mode [IF]: only images of 8 bits and unsigned ones of 16 bits are read"):
            decoded(tmp_path / name)


def test_an_image_of_16_bits_fits_among_images_of_8(tmp_path: Path) -> None:
    write_images(tmp_path, mode="L")
    right = images_of(folder(tmp_path))
    for file in list(tmp_path.rglob("[02].png")):
        with Image.open(file) as image:
            deep = np.asarray(image).astype(np.uint16) * 257
        Image.fromarray(deep).save(file)
    for changes in ({}, {"in_memory": False}):
        assert same(images_of(folder(tmp_path, **changes)), right)
    Image.new("RGB", (8, 6), "red").save(tmp_path / "train/dog/3.png")
    assert images_of(folder(tmp_path))[0].shape[1] == 3


# -- in which mode ------------------------------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(0).choice([0, 51, 102, 153, 204, 255], (6, 8, 3)).astype(np.uint8)  # those of the web palette


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "png"), ("RGBA", "png"), ("RGBA", "webp"), ("CMYK", "tif"), ("RGBX", "tif"), ("PA", "tif")]
)
def test_the_colours_of_every_mode_are_kept(mode: str, kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS)
    if mode in ("P", "PA"):
        image = image.convert("P")  # dithered; Pillow has no way from RGB to PA
    colours = np.asarray(image.convert("RGB"))
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    (image if image.mode == mode else image.convert(mode)).save(tmp_path / f"0.{kind}", **options)
    np.testing.assert_array_equal(decoded(tmp_path / f"0.{kind}"), colours)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    for mode in ("RGBA", "LA"):
        image = Image.fromarray(COLOURS).convert(mode)
        opaque = decoded_of(image, tmp_path)
        image.putalpha(7)
        np.testing.assert_array_equal(decoded_of(image, tmp_path), opaque)


def decoded_of(image: Image.Image, folder: Path) -> Array:
    image.save(folder / "0.png")
    return decoded(folder / "0.png")


def test_images_of_few_bits_use_the_whole_range(tmp_path: Path) -> None:
    bits = np.array([[0, 1, 1, 0]], dtype=bool)
    for kind in ("png", "tif", "pbm"):
        Image.fromarray(bits).save(tmp_path / f"0.{kind}")
        assert decoded(tmp_path / f"0.{kind}").tolist() == [[0, 255, 255, 0]], kind
    (tmp_path / "0.pgm").write_bytes(b"P5 4 1 15\n" + bytes([0, 1, 8, 15]))
    assert decoded(tmp_path / "0.pgm").tolist() == [[0, 17, 136, 255]]


def test_cmyk_jpegs_are_not_inverted(tmp_path: Path) -> None:
    """Those of Adobe's programs, and so of Pillow, hold the inverse of what they mean."""
    Image.new("RGB", (16, 16), (255, 255, 255)).convert("CMYK").save(tmp_path / "0.jpg", quality=100)
    assert decoded(tmp_path / "0.jpg").min() >= 254

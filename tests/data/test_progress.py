"""What takes long on a folder of many files shows how far it is, on a terminal and nowhere else."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import torch

from noisescale.data import image_cache
from noisescale.data.decoding import decode_images
from noisescale.data.image_cache import ImageCache
from noisescale.data.image_files import list_images
from tests.helpers.images import write_images


class Output(io.StringIO):
    """A standard error that may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def said(terminal: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is shown of listing, checking, decoding and caching the images of a folder."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes a file for a terminal then
    monkeypatch.setattr(image_cache, "A_PART", 100)
    monkeypatch.setattr(sys, "stderr", output := Output(terminal))
    files = [file for group in list_images(folder)["train"].values() for file in group]
    cache = ImageCache(folder / ".noisescale")
    mark = cache.mark(folder, files)
    images = decode_images(files, channels=3, size=(8, 8), resize=True, title="decoding train images")
    kept = cache.keep("train", mark, images)
    assert torch.equal(kept, images)
    assert images.numel() > 300
    return output.getvalue()


def test_a_terminal_sees_the_work_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    shown = said(True, tmp_path, monkeypatch)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    for title in ("listing", "looking for changed files", "decoding train images", "writing the cache of the images"):
        assert title in plain
    assert "100%" in plain


def test_a_log_file_sees_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    assert said(False, tmp_path, monkeypatch) == ""

"""Several writers of one cache of decoded images."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from noisescale.data import image_cache
from tests.helpers import images
from tests.helpers.images import images_of, kept, write_images

folder = partial(images.folder, cache=True)


def start(root: Path) -> int:
    return int(images_of(folder(root))[0].sum())


def test_two_writers_at_the_same_moment_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, values = image_cache.ImageCache(tmp_path / "kept"), torch.arange(6).view(1, 2, 3)
    original = os.fsync
    nested: list[bool] = []

    def interrupted(handle: int) -> None:
        original(handle)
        if not nested:
            nested.append(True)
            assert torch.equal(cache.keep("name", "0" * 32, values), values)

    monkeypatch.setattr(os, "fsync", interrupted)
    image_cache.say_once.cache_clear()
    assert torch.equal(cache.keep("name", "0" * 32, values), values)
    found = cache.find("name", "0" * 32)
    assert found is not None
    assert torch.equal(found, values)
    assert [path.name for path in cache.folder.iterdir()] == ["name-" + "0" * 32]  # type: ignore[union-attr]
    assert capsys.readouterr().err == ""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="to start quickly")
@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_processes_that_start_at_once_do_not_hurt_each_other(tmp_path: Path) -> None:
    write_images(tmp_path, n=40)
    expected = int(images_of(folder(tmp_path, cache=False))[0].sum())
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(start, [tmp_path] * 6, chunksize=1) == [expected] * 6
    assert len(kept(tmp_path)) == 2
    assert not [path for path in kept(tmp_path) if path.name.startswith(".part")]

"""A damaged checkpoint is never loaded."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisescale.callbacks import SafeCheckpointIO
from noisescale.checkpoint_files import damage_of
from noisescale.errors import ConfigError
from tests.helpers.checkpoints import CONTENTS, WEIGHTS, checkpoint, saved
from tests.helpers.refusals import refusal_of


def _flip(data: bytes, at: int, bits: int = 0x10) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def _weights_at(data: bytes) -> int:
    return data.index(WEIGHTS.numpy().tobytes()) + 5000


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one flipped byte": (lambda data: _flip(data, _weights_at(data)), "is damaged (archive/data/0 does not match its checksum)"),
    "4 KiB of zeros": (
        lambda data: data[: _weights_at(data)] + bytes(4096) + data[_weights_at(data) + 4096 :],
        "is damaged (archive/data/0 does not match its checksum)",
    ),
    "zeros at its start": (lambda data: bytes(512) + data[512:], "is damaged (archive/data.pkl does not match its checksum)"),
    "cut off in the middle": (lambda data: data[: len(data) // 2], "is damaged (its end is missing)"),
    "one byte short": (lambda data: data[:-1], "is damaged (its end is missing)"),
    "0 bytes": (lambda data: b"", "is empty (0 bytes)"),
    "only zeros": (lambda data: bytes(len(data)), "is damaged (it starts with zeros)"),
    "a text": (lambda data: b"epoch,loss\n", "is not a checkpoint, or a damaged one"),
    "a pickle": (lambda data: pickle.dumps({"a": 1}), "is a pickle, which can hold code, not loaded"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    damage, words = DAMAGE[kind]
    path = saved(tmp_path / "last.ckpt", 1)
    path.write_bytes(damage(path.read_bytes()))
    line = f"ckpt_path={path}: {words}; give a whole checkpoint, or start anew"
    assert refusal_of(lambda: SafeCheckpointIO().load_checkpoint(path)) == line


def test_what_is_not_a_checkpoint_is_refused_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.ckpt")  # to open it would wait for ever
    os.symlink("nowhere", "link.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    with zipfile.ZipFile("zip.ckpt", "w") as archive:
        archive.writestr("a.txt", "text")
    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("last/data.pkl", bytes(10**6))
    with zipfile.ZipFile("script.ckpt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/net.py"):
            archive.writestr(f"net/{name}", "")
    torch.save(CONTENTS, "old.ckpt", _use_new_zipfile_serialization=False)
    found = {name: damage_of(Path(f"{name}.ckpt")) for name in ("none", "fifo", "link", "folder", "zip", "bomb", "script", "old")}
    assert found == {
        "none": f"no such file in {tmp_path}",
        "fifo": "is not a file",
        "link": f"no such file in {tmp_path}",
        "folder": "is a folder, not a checkpoint",
        "zip": "is a zip, but not a checkpoint",
        "bomb": "is a zip, but not a checkpoint",
        "script": "holds code (TorchScript), not loaded",
        "old": "is a pickle, which can hold code, not loaded",
    }
    assert damage_of(tmp_path / "none.ckpt") == "no such file"
    assert damage_of(Path("a\0b")).startswith("cannot be read (")


def test_no_damage_is_loaded_as_something_else(tmp_path: Path) -> None:
    """Some bytes are read by no one, such as the times of files, so that a file may also be loaded as it was."""
    _compare_with_each(_flip, 97, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_no_bit_anywhere_is_loaded_as_something_else(bit: int, tmp_path: Path) -> None:
    """One of the bits of the zip's list of contents makes torch take a tensor for empty memory."""
    _compare_with_each(lambda data, at: _flip(data, at, 1 << bit), 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda data, at: data[:at],
        lambda data, at: data[:at] + bytes(512) + data[at + 512 :],
        lambda data, at: data[:at] + data[max(0, at - 512) :],
        lambda data, at: data[:at] + data[at + 64 :],
    ],
    ids=["cut off", "zeros", "repeated", "left out"],
)
def test_no_missing_or_repeated_part_is_loaded_as_something_else(damage: Callable[[bytes, int], bytes], tmp_path: Path) -> None:
    _compare_with_each(damage, 7, tmp_path)


def _compare_with_each(damage: Callable[[bytes, int], bytes], step: int, folder: Path) -> None:
    whole = saved(folder / "whole.ckpt", 3).read_bytes()
    refused = 0
    for at in range(0, len(whole), step):
        bad = damage(whole, at)
        if bad == whole:
            continue
        path = folder / f"{at}.ckpt"
        path.write_bytes(bad)
        try:
            loaded = SafeCheckpointIO().load_checkpoint(path)
        except ConfigError:
            refused += 1
            continue
        finally:
            path.unlink()
        assert torch.equal(loaded["weights"], WEIGHTS), at
        assert {**loaded, "weights": None} == {**checkpoint(3), "weights": None}, at
    assert refused > 0.5 * (len(whole) // step)

"""What the template does with its checkpoints: saved often, damaged, on a full disk, holding code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from noisescale.execution.checkpoint_io import update_of
from tests.helpers.front_door import checkpoint_of, run

SHORT = ("data.subset_size=200", "epochs=3", "threads=1", "logger=csv")
"""Three epochs; the updates of 32 end them after 6, 12 and 17."""


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saves after every fourth update, too."""
    folder = tmp_path_factory.mktemp("often")
    outcome = run(*SHORT, "callbacks.last.every_n_updates=4", f"hydra.run.dir={folder}")
    assert outcome.status == 0, outcome.err
    return folder


def test_the_last_the_one_before_and_the_best_are_there(often: Path) -> None:
    updates = {path.name: update_of(path) for path in (often / "checkpoints").iterdir()}
    assert sorted(updates) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert updates["last.ckpt"] == 17
    assert updates["previous.ckpt"] in range(4, 17)


def test_a_damaged_last_checkpoint_is_said_and_replaced(often: Path, tmp_path: Path) -> None:
    folder = often / "checkpoints"
    damaged, others = folder / "last.ckpt", {name: update_of(folder / name) or 0 for name in ("previous.ckpt", "best.ckpt")}
    newest = max(others, key=lambda name: others[name])
    whole, expected = damaged.read_bytes(), checkpoint_of(often)
    at = len(whole) // 2
    damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.warns(UserWarning, match="resuming from") as said:
        outcome = run(*SHORT, f"ckpt_path={damaged}", f"hydra.run.dir={tmp_path}")
    damaged.write_bytes(whole)
    assert outcome.status == 0, outcome.err
    lines = [str(warning.message) for warning in said]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"ckpt_path={damaged}: is damaged (archive/data/")
    assert lines[0].endswith(f" does not match its checksum); resuming from {newest}, update {others[newest]}")
    found = checkpoint_of(tmp_path)
    assert str(found["state_dict"]) == str(expected["state_dict"])
    assert str(found["optimizer_states"]) == str(expected["optimizer_states"])


def test_without_a_whole_one_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    (tmp_path / "previous.ckpt").write_bytes(bytes(5000))
    outcome = run(*SHORT, f"ckpt_path={tmp_path}/last.ckpt", f"hydra.run.dir={tmp_path}/run")
    line = f"error: ckpt_path={tmp_path}/last.ckpt: is empty (0 bytes); give a .ckpt file, or null to start anew\n"
    assert (outcome.status, outcome.err) == (2, line)


def test_code_is_refused_as_what_it_is(often: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    saved: dict[str, Any] = torch.load(often / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**saved, "callbacks": _Command(tmp_path / "mark")}, tmp_path / "last.ckpt")
    outcome = run(*SHORT, f"ckpt_path={tmp_path}/last.ckpt", f"hydra.run.dir={tmp_path}/run")
    line = f"error: ckpt_path={tmp_path}/last.ckpt: holds code (posix.system), not loaded; give a whole checkpoint, or start anew"
    assert (outcome.status, outcome.lines[-1]) == (2, line)
    assert not (tmp_path / "mark").exists()


class _Command:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)

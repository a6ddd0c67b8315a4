"""A checkpoint survives a kill, a full disk and a foreign TMPDIR while it is saved; a whole one is loaded in place of a damaged one."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from noisescale.callbacks import SafeCheckpointIO
from noisescale.checkpoint_files import damage_of
from noisescale.execution import checkpoint_io
from noisescale.execution.checkpoint_io import CheckpointNotSaved, update_of, whole_checkpoint
from tests.helpers.checkpoints import checkpoint, saved
from tests.helpers.refusals import refusal_of
from tests.helpers.system_calls import Died, dies_at, system_calls


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# -- saving -------------------------------------------------------------------------------------------------------------------


def test_the_last_one_before_is_kept(tmp_path: Path) -> None:
    saved(tmp_path / "last.ckpt", 1, 2, 3)
    assert {name: update_of(tmp_path / name) for name in names(tmp_path)} == {"last.ckpt": 3, "previous.ckpt": 2}
    saved(tmp_path / "best.ckpt", 1, 2, 3)
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_system_call_leaves_a_whole_checkpoint(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system has no hard links, so that for a moment there is only previous.ckpt."""
    if not links:
        monkeypatch.setattr(os, "link", _refuse)
    io = SafeCheckpointIO(patience=0)
    saved(tmp_path / "old" / "last.ckpt", 1, 2, io=io)
    with system_calls() as calls:
        saved(tmp_path / "old" / "last.ckpt", 3, io=io)
    assert len(calls) >= 7, calls
    for at in range(len(calls)):
        folder, io = tmp_path / str(at), SafeCheckpointIO(patience=0)
        saved(folder / "last.ckpt", 1, 2, io=io)
        with pytest.raises(Died), dies_at(at):
            saved(folder / "last.ckpt", 3, io=io)
        with warnings.catch_warnings(action="error" if links else "ignore"):  # with links there is always a last.ckpt
            found = update_of(whole_checkpoint(folder / "last.ckpt"))
        assert found in (2, 3), (at, calls[at])
        assert update_of(folder / "previous.ckpt") in (1, 2)
        saved(folder / "last.ckpt", 4, 5, io=SafeCheckpointIO(patience=0))  # what was left behind is in nobody's way
        assert names(folder)[:2] == ["last.ckpt", "previous.ckpt"]
        assert update_of(folder / "last.ckpt") == 5
        assert update_of(folder / "previous.ckpt") == 4


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_what_cannot_be_written_costs_nothing(number: int, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = SafeCheckpointIO(patience=0)
    path = saved(tmp_path / "last.ckpt", 1, 2, io=io)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    count = iter(range(1000))
    write = checkpoint_io._Watched.write

    def fail(self: Any, data: Any) -> int:
        if next(count) >= at:
            self.error = self.error or OSError(number, os.strerror(number))
            raise self.error
        return write(self, data)

    monkeypatch.setattr(checkpoint_io._Watched, "write", fail)
    with pytest.raises(CheckpointNotSaved) as caught:
        saved(path, 3, io=io)
    assert str(caught.value) == (
        f"{path}: cannot be written ({os.strerror(number)}); last.ckpt of update 2 is kept: make room, and resume with ckpt_path={path}"
    )
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (number, os.strerror(number), str(path))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_line_says_where_nothing_is_kept_or_only_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "run" / "last.ckpt", 4)
    monkeypatch.setattr(os, "fsync", _refuse)
    with pytest.raises(CheckpointNotSaved, match=r"no checkpoint was saved before$"):
        saved(tmp_path / "other" / "last.ckpt", 3)
    with pytest.raises(CheckpointNotSaved, match=r"; last.ckpt is kept: make room, and resume with ckpt_path=.*last.ckpt$"):
        saved(tmp_path / "run" / "best.ckpt", 3)
    assert names(tmp_path / "run") == ["last.ckpt"]


def test_the_folder_for_temporary_files_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert update_of(saved(tmp_path / "a" / "last.ckpt", 1, 2)) == 2


def test_saves_in_quick_succession_do_not_wait_and_previous_is_one_that_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, synced = [100.0], list[int]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", synced.append)
    io, kept, waits = SafeCheckpointIO(patience=1.0), [], []
    for update in range(1, 7):
        synced.clear()
        saved(tmp_path / "last.ckpt", update, io=io)
        waits.append(bool(synced))
        kept.append(update_of(tmp_path / "previous.ckpt"))
        now[0] += 0.4
    assert waits == [True, False, False, True, False, False]
    assert kept == [None, 1, 1, 1, 4, 4]
    synced.clear()
    io.teardown()
    assert len(synced) == 2  # the file and its folder
    io.teardown()
    assert len(synced) == 2


def test_what_another_run_left_does_not_become_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path / "last.ckpt", 50, 60)
    saved(tmp_path / "last.ckpt", 1)  # a new run in a used folder
    assert names(tmp_path) == ["last.ckpt", "previous.ckpt.1"]
    io = SafeCheckpointIO(patience=0)
    io.load_checkpoint(tmp_path / "last.ckpt")
    saved(tmp_path / "last.ckpt", 2, io=io)  # one that goes on
    assert update_of(tmp_path / "previous.ckpt") == 1


def test_a_damaged_one_does_not_replace_the_one_before(tmp_path: Path) -> None:
    path = saved(tmp_path / "last.ckpt", 1, 2)
    path.write_bytes(path.read_bytes()[:-100])
    io = SafeCheckpointIO(patience=0)
    with pytest.warns(UserWarning, match="resuming from previous.ckpt, update 1"):
        assert io.load_checkpoint(path)["global_step"] == 1
    saved(path, 2, io=io)
    assert [update_of(tmp_path / name) for name in ("last.ckpt", "previous.ckpt")] == [2, 1]


def test_checksums_are_written_even_where_they_are_turned_off(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        assert damage_of(saved(tmp_path / "last.ckpt", 1)) == ""
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)


def test_a_path_that_is_not_local_is_left_to_lightning() -> None:
    io = SafeCheckpointIO()
    io.save_checkpoint(checkpoint(5), "memory://folder/last.ckpt")
    assert io.load_checkpoint("memory://folder/last.ckpt")["global_step"] == 5


# -- falling back -------------------------------------------------------------------------------------------------------------


def test_the_newest_whole_one_stands_in_by_its_updates_not_by_its_time(tmp_path: Path) -> None:
    path = saved(tmp_path / "last.ckpt", 30, 40)
    saved(tmp_path / "best.ckpt", 20)
    path.write_bytes(b"")
    os.utime(tmp_path / "best.ckpt", (2e9, 2e9))
    line = f"ckpt_path={path}: is empty \\(0 bytes\\); resuming from previous.ckpt, update 30"
    with pytest.warns(UserWarning, match=line):
        assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == 30
    (tmp_path / "previous.ckpt").write_bytes((tmp_path / "previous.ckpt").read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"resuming from best.ckpt, update 20"):
        assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == 20
    path.unlink()
    with pytest.warns(UserWarning, match=r"no such file; resuming from best.ckpt, update 20"):
        assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == 20


def test_weights_alone_and_other_names_do_not_stand_in(tmp_path: Path) -> None:
    path = saved(tmp_path / "last.ckpt", 30, 40)
    shutil.move(tmp_path / "previous.ckpt", tmp_path / "epoch=3.ckpt")
    weights_only = {"global_step": 35, "state_dict": {}}
    SafeCheckpointIO().save_checkpoint(weights_only, tmp_path / "best.ckpt")
    path.write_bytes(b"")
    assert "is empty" in refusal_of(lambda: whole_checkpoint(path))
    (tmp_path / "epoch=3.ckpt").write_bytes(b"")
    saved(tmp_path / "last.ckpt", 40)
    assert "is empty" in refusal_of(lambda: whole_checkpoint(tmp_path / "epoch=3.ckpt"))  # asked for by its name


# -- code ---------------------------------------------------------------------------------------------------------------------


class _Command:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("variable", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "eval"), (shutil.rmtree, "shutil.rmtree"), (Path, "pathlib.Path")],
)
def test_code_is_not_loaded_and_not_recommended(
    function: Any, name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mark = tmp_path / "last.ckpt", tmp_path / "mark"
    argument = f"open({str(mark)!r}, 'w')" if function is eval else f"touch {mark}"
    torch.save({**checkpoint(1), "callbacks": _Command(function, argument)}, path)
    if variable:
        monkeypatch.setenv(variable, "1")
    line = refusal_of(lambda: SafeCheckpointIO().load_checkpoint(path))
    assert line == f"ckpt_path={path}: holds code ({name}), not loaded; give a whole checkpoint, or start anew"
    assert not mark.exists()
    saved(tmp_path / "previous.ckpt", 1)
    assert "holds code" in refusal_of(lambda: SafeCheckpointIO().load_checkpoint(path))  # nothing stands in for it


def test_what_the_user_says_outright_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({**checkpoint(1), "more": _Command(Path, "a")}, path)
    assert SafeCheckpointIO().load_checkpoint(path, weights_only=False)["more"] == Path("a")


def test_our_checkpoints_load_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "last.ckpt", 1)
    for variable in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"):
        with monkeypatch.context() as changed:
            changed.setenv(variable, "1")
            assert SafeCheckpointIO().load_checkpoint(path)["global_step"] == 1

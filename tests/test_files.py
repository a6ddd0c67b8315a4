"""Files that survive an interruption: no old file is overwritten, and a new one is written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisescale.files import AppendedRows, read_rows, set_aside, write_atomically, write_rows


def test_a_new_run_never_overwrites_the_rows_of_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    for number in range(3):
        AppendedRows(path, ("step", "x"), start=0).append([(0, number), (1, number)])
    assert [row["x"] for row in read_rows(path)] == ["2", "2"]
    assert [row["x"] for row in read_rows(tmp_path / "steps.csv.1")] == ["0", "0"]
    assert [row["x"] for row in read_rows(tmp_path / "steps.csv.2")] == ["1", "1"]


def test_runs_at_once_write_into_a_file_each(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    runs = []
    for number in range(3):
        runs.append(AppendedRows(path, ("step", "x"), start=0))
        for run in runs:
            run.append([(number, id(run))])
    for run, name, start in zip(runs, ("steps.csv.1", "steps.csv.2", "steps.csv"), range(3), strict=True):
        assert read_rows(tmp_path / name) == [{"step": str(step), "x": str(id(run))} for step in range(start, 3)]


def test_a_run_that_starts_in_the_same_moment_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one creates its file after this one has looked, and before it creates its own."""
    path, others = tmp_path / "steps.csv", iter(["step,x\n5,other\n"])

    def looks(given: Path) -> None:
        set_aside(given)
        if (text := next(others, None)) is not None:
            given.write_text(text)

    monkeypatch.setattr("noisescale.files.set_aside", looks)
    AppendedRows(path, ("step", "x"), start=0).append([(0, "mine")])
    assert [row["x"] for row in read_rows(path)] == ["mine"]
    assert [row["x"] for row in read_rows(tmp_path / "steps.csv.1")] == ["other"]


@pytest.mark.parametrize("kept", [False, True])
def test_rows_that_a_resumed_run_removes_can_be_kept_in_a_copy(tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "steps.csv"
    AppendedRows(path, ("step", "x"), start=0).append([(0, "a"), (1, "a"), (2, "a")])
    for _ in range(2):  # the second time nothing is removed
        AppendedRows(path, ("step", "x"), start=2, keep_removed=kept)
    assert [row["step"] for row in read_rows(path)] == ["0", "1"]
    copies = [[row["step"] for row in read_rows(copy)] for copy in tmp_path.glob("steps.csv.*")]
    assert copies == ([["0", "1", "2"]] if kept else [])


def test_writing_fails_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new, and long")
    assert path.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="needs a device")
def test_a_device_is_neither_replaced_nor_set_aside(tmp_path: Path) -> None:
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    for write in (set_aside, lambda path: write_rows(path, ["a"], []), lambda path: AppendedRows(path, ["a"], 0)):
        with pytest.raises(OSError, match="there is something that is no file"):
            write(device)
    assert device.is_symlink()


def test_rows_of_a_file_that_was_removed_are_not_lost_in_silence(tmp_path: Path) -> None:
    rows = AppendedRows(tmp_path / "rows.csv", ["step"], 0)
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(FileNotFoundError, match="it was removed while the run was writing it"):
        rows.append([(1,)])


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "x.json", "old")

    def full(number: int) -> None:
        raise OSError("full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="full"):
        write_atomically(tmp_path / "x.json", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.json", "old")]

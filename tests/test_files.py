"""Files that survive an interruption: no old file is overwritten, and a new one is written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisescale.files import AppendedRows, read_rows, write_atomically


def test_a_new_run_never_overwrites_the_rows_of_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    for number in range(3):
        AppendedRows(path, ("step", "x"), start=0).append([(0, number), (1, number)])
    assert [row["x"] for row in read_rows(path)] == ["2", "2"]
    assert [row["x"] for row in read_rows(tmp_path / "steps.csv.1")] == ["0", "0"]
    assert [row["x"] for row in read_rows(tmp_path / "steps.csv.2")] == ["1", "1"]


def test_writing_fails_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new, and long")
    assert path.read_text() == "old"

"""Every `python report.py` on every page is run in a folder with small runs: up to the reading of the runs, and all of it if slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisescale.app import report
from tests.helpers.pages import Command, commands
from tests.helpers.runs import leave_run

REPORTS = [command for command in commands() if command.starts_with("python", "report.py")]
each = pytest.mark.parametrize("command", REPORTS, ids=str)


@pytest.fixture(autouse=True)
def _a_folder_with_the_runs_that_the_pages_speak_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("sweep/first/0", "sweep/first/1", "sweep/mnist/0", "train/one"):
        leave_run(tmp_path / "outputs" / path, [f"seed={path[-1]}"] if "sweep" in path else [])
    monkeypatch.chdir(tmp_path)


@each
def test_up_to_the_reading(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(REPORTS) >= 4
    found: list[Any] = []
    monkeypatch.setattr(report, "_report", lambda runs, *others: found.extend(runs))
    assert report.main(command.arguments) == 0
    assert len(found) > 0


@pytest.mark.slow
@each
def test_all_of_it(command: Command, tmp_path: Path) -> None:
    assert report.main(command.arguments) == 0
    (page,) = tmp_path.glob("*/report.html" if "--out" in command.words else "outputs/report/*/report.html")
    assert {path.name for path in page.parent.iterdir()} >= {"report.md", "finals.png", "curves.png", "schedules.png"}

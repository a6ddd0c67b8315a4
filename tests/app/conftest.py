"""Fixtures of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.front_door import run, run_dir
from tests.helpers.resuming import SHORT, STEPS


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    assert run(*SHORT, run_dir(folder)).status == 0
    return folder


@pytest.fixture(scope="session")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "part"
    assert run(*SHORT, STEPS, run_dir(folder)).status == 0
    return folder


@pytest.fixture
def stopped(part: Path, tmp_path: Path) -> Path:
    """A run that was stopped after 8 of 18 updates, in a folder that has been moved."""
    return Path(shutil.copytree(part, tmp_path / "a run=1, moved"))

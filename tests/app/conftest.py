"""Fixtures of this folder."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.finished import FULL, Finished
from tests.helpers.front_door import results_of, run, run_dir
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


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("front door") / "with space=and 'quote"
    began = time.perf_counter()
    outcome = run(*FULL, run_dir(folder))
    elapsed = time.perf_counter() - began
    assert outcome.status == 0, outcome.err
    return Finished(folder, outcome, read_rows(folder / "steps.csv"), results_of(folder), elapsed)

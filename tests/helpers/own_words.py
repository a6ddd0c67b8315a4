"""Runs of a user's own classes, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.front_door import results_of, run, run_dir

HERE = "tests.helpers.own"
SHORT = ("epochs=2", "threads=1", "logger=csv-only")


def typed(**classes: str) -> list[str]:
    """`module="Module"` -> `module._target_=tests.helpers.own.Module`."""
    return [f"{group}._target_={HERE}.{name}" for group, name in classes.items()]


def trained(folder: Path, *words: str) -> dict[str, Any]:
    outcome = run(*words, *SHORT, run_dir(folder))
    assert outcome.status == 0, outcome.err
    return results_of(folder)


def refusal(*words: str, folder: Path) -> str:
    outcome = run(*words, *SHORT, run_dir(folder))
    assert outcome.status == 2, outcome
    assert not (folder / "results.json").exists()
    return outcome.lines[-1].removeprefix("error: ")

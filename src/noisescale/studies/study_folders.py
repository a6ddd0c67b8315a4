"""The folders of commands that are no training: what they are, and what shows what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["studies_in", "study_in"]

_SHOWN_BY = {
    "branches": "branches.png and branches.csv have what was found; its command with hydra.run.dir={folder} shows the table",
    "curvature": "curvature.json, or line.csv and line.png, have what was measured",
    "plan": "plan.png and plan.csv show it",
    "range_test": "range_test.png and range_test.json have what was found",
    "recommend": "recommendation.md has what was found; its command with hydra.run.dir={folder} shows it",
}
"""Program -> what shows what it has left."""

_FILES = {"curvature.json": "curvature", "line.csv": "curvature"}
"""Files -> the program that leaves them, where that records no configuration."""


def study_in(folder: Path) -> str | None:
    """One line about the folder of a study or a plan: what it is, and what shows what is in it; None for any other folder.

    Args:
        folder: the folder, in which nothing may be readable.
    """
    program = _program_of(folder)
    if program not in _SHOWN_BY:
        return None
    kind = "a plan" if program == "plan" else "a study"
    return f"is the folder of {kind} by {program}.py, not of a training; {_SHOWN_BY[program].format(folder=os.path.relpath(folder))}"


def studies_in(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """(folder, its line) of every study in or below some folders, in the order of their names."""
    for folder in folders:
        line = study_in(folder)
        if line is not None:
            yield folder, line
            continue
        try:
            below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        except OSError:
            continue
        yield from studies_in(below)


def _program_of(folder: Path) -> str:
    found = _read(folder / ".hydra" / "hydra.yaml")
    for key in ("hydra", "job", "name"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return found
    return next((program for name, program in _FILES.items() if (folder / name).is_file()), "")


def _read(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None

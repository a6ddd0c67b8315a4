"""What the measurements in a folder belong to: a file beside them, compared before anything is added."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.files import write_atomically

__all__ = ["same_study"]


def same_study(path: Path, mine: Mapping[str, Any], grows: Collection[str] = ()) -> None:
    """Write what the measurements in a folder belong to, or compare it with what is there.

    Args:
        path: the file.
        mine: key -> plain value.
        grows: keys that may differ, because what is there stays useful: numbers, and lists to which something is added.

    Raises:
        ConfigError: another value is there; or the file is damaged.
    """
    there = _read(path) if path.exists() else dict(mine)
    for key in dict.fromkeys([*there, *mine]):
        old, new = there.get(key), mine.get(key)
        longer = isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old
        number = not isinstance(old, list) and not isinstance(new, list) and old is not None and new is not None
        if old != new and not (key in grows and (longer or number)):
            problem = f"{path.parent} has the measurements of a training with {key}={old}"
            raise ConfigError(key, new, problem, "go on with the same, or choose another folder")
    if not path.exists() or there != dict(mine):
        write_atomically(path, json.dumps(mine, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError("file", path, "is damaged", "choose another folder, or delete the study") from error
    return found

"""The commit of the code that runs."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["commit"]


@cache
def commit() -> str | None:
    """The hash of the commit; None outside a git checkout."""
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
        return found.stdout.strip()
    return None

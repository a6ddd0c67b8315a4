"""A run of train.py that is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.front_door import Outcome

FULL = ("epochs=4", "threads=1", "scheduler=constant", "batch.size=100", "batch.last=partial", "max_micro_batch_size=40")
"""A schedule whose horizon does not depend on `epochs`; 12 updates of 100 and one of 93 in each epoch."""


@dataclass(frozen=True)
class Finished:
    folder: Path
    outcome: Outcome
    rows: list[dict[str, str]]
    results: dict[str, Any]
    elapsed: float
    """Seconds that the command took, of whatever clock this machine has."""

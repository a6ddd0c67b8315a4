"""One number of a finished run: from results.json, from a column of one of its CSV files, or from a function's own results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError, check_choice, check_number
from noisescale.files import read_rows
from noisescale.studies.runs import Run

__all__ = ["SOURCES", "Metric"]

FILES = ("epochs", "steps", "curvature")
SOURCES = ("results", *FILES, "function")
"""Where a metric comes from: a key of results.json, a column of one of these CSV files, a key of what a function returns."""


def _geometric(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if min(values) > 0 else math.nan


TAKES: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda values: values[-1],
    "mean": lambda values: math.fsum(values) / len(values),
    "geometric_mean": _geometric,
    "min": min,
    "max": max,
    "last_fifth": lambda values: math.fsum(values[-max(1, len(values) // 5) :]) / max(1, len(values) // 5),
}
"""How a column becomes one number. `geometric_mean` weighs the whole curve of a loss equally, early and late; it is exp(mean(log))."""


@dataclass(frozen=True)
class Metric:
    """What is read from each run.

    Args:
        source: one of `SOURCES`.
        key: the key or column, such as `test/acc` or `train/loss`.
        take: what becomes of a column, one of `TAKES`.
        reach: instead of `take`, the number of the first row whose value is at least this; of a loss, whose value is at most this. A run
            that never reaches it counts as one row more than it has.
        at_most: a larger value counts as this one, such as the loss of a guess, beyond which a number says nothing.
        if_diverged: the value of a run that diverged, such as the accuracy of a guess. None: such a run has no value.
    """

    source: str
    key: str
    take: str = "last"
    reach: float | None = None
    at_most: float | None = None
    if_diverged: float | None = None

    def __post_init__(self) -> None:
        check_choice("take", self.take, TAKES)
        for name in ("reach", "at_most", "if_diverged"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if self.reach is not None and self.source not in FILES:
            files = ", ".join(f"{name}.csv" for name in FILES)
            raise ConfigError("reach", self.reach, f"needs a column of {files}", "write epochs: <column>")

    def of_run(self, run: Run) -> float | None:
        """The value of a complete run; None if its files do not have it."""
        value = self.if_diverged if run.state == "diverged" else self._of_files(run)  # those of a run that diverged end in the middle
        return value if value is None or self.at_most is None else min(value, self.at_most)

    def _of_files(self, run: Run) -> float | None:
        if self.source == "results":
            return _finite(run.results.get(self.key))
        values = self.column(run.folder)
        if not values:
            return None
        if self.reach is not None:
            falls = self.key.endswith("loss")
            reached = (row for row, value in enumerate(values, 1) if (value <= self.reach if falls else value >= self.reach))
            return float(next(reached, len(values) + 1))
        return _finite(TAKES[self.take](values))

    def of_function(self, returned: Mapping[str, float]) -> float | None:
        """The value in what a function has returned."""
        return _finite(returned.get(self.key))

    def column(self, folder: Path) -> list[float]:
        """The values of the column, row by row; those that are empty or no numbers are left out."""
        found = []
        for row in read_rows(folder / f"{self.source}.csv"):
            try:
                value = float(row.get(self.key, ""))
            except ValueError:
                continue
            if math.isfinite(value):
                found.append(value)
        return found


def _finite(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None

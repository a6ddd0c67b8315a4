"""The columns of steps.csv and epochs.csv as numbers, whatever has become of the file, and at most as many rows as a figure can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median

__all__ = ["Series", "means_over_epochs", "read_series", "without_spikes"]


@dataclass(frozen=True)
class Series:
    """The rows of a CSV file, column by column.

    Attributes:
        columns: name -> values, all of the same length; nan for a field that is empty or no number.
        last: name -> value of the last whole row of the file; empty if there is none.
        damage: what is wrong with the file, as a phrase; empty if nothing is.
    """

    columns: dict[str, list[float]] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    damage: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def pairs(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """The two columns, without the rows in which one of them has no finite value; empty if there is no such column."""
        found = zip(self.columns.get(x, []), self.columns.get(y, []), strict=False)
        kept = [(a, b) for a, b in found if math.isfinite(a) and math.isfinite(b)]
        return [a for a, _ in kept], [b for _, b in kept]


def read_series(path: Path, groups: int | None = None) -> Series:
    """The rows of a CSV file with a header. A line that is cut off, has another number of fields or holds zeros is left out, and counted.

    Args:
        path: the file; it may be missing.
        groups: None: all rows. Otherwise, of a file with more than 3 `groups` rows, that many groups of three consecutive rows, evenly
            spaced, the first and the last ones among them. Three, so that `without_spikes` can be applied to each.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Series(damage=f"no {path.name}")
    except OSError as error:
        return Series(damage=f"{path.name} cannot be read ({error.strerror})")
    names = [name.decode(errors="replace") for name in lines[0].rstrip(b"\r").split(b",")] if lines else []
    rows = lines[1:]
    bad = int(bool(rest)) if lines else 0
    last = next((row for row in (_numbers(line, len(names)) for line in reversed(rows)) if row is not None), None)
    if groups is not None and len(rows) > 3 * groups:
        starts = [i * (len(rows) - 3) // (groups - 1) for i in range(groups)]
        rows = [rows[start + i] for start in starts for i in range(3)]
    numbers = [row for row in (_numbers(line, len(names)) for line in rows) if row is not None]
    bad += len(rows) - len(numbers)
    if last is None:
        return Series(damage=f"{path.name} has no rows")
    columns = {name: [row[i] for row in numbers] for i, name in enumerate(names)}
    damage = f"{path.name}: {bad} line{'s' if bad > 1 else ''} cut off or unreadable" if bad else ""
    return Series(columns, dict(zip(names, last, strict=True)), damage)


def _numbers(line: bytes, width: int) -> list[float] | None:
    """The fields of a line; None if it is not a whole row."""
    fields = line.split(b",")
    if len(fields) != width or b"\0" in line:
        return None
    found = [_number(each) for each in fields]
    return None if all(math.isnan(value) for value in found) else found


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def without_spikes(values: Sequence[float]) -> list[float]:
    """The median of each value and its two neighbours; the first value stays, and the last becomes that of the last three.

    It takes away what one update alone has, such as a smaller batch at the end of a pass, and keeps slopes and steps where they are.
    """
    if len(values) < 3:
        return list(values)
    middle = [median(values[i - 1 : i + 2]) for i in range(1, len(values) - 1)]
    return [values[0], *middle, median(values[-3:])]


def means_over_epochs(steps: Series) -> Series:
    """The mean loss of the examples of each epoch, from the rows of all updates: `epoch`, `step`, `examples_seen` at its end, and `loss`.

    An update belongs to the epoch in which it starts, and counts with its batch size. Of a training of less than two epochs, fiftieths take
    the place of epochs, and so they are no epoch means.
    """
    names = ("epoch", "step", "examples_seen", "effective_batch_size", "loss")
    rows = [row for row in zip(*(steps.columns.get(name, []) for name in names), strict=False) if all(map(math.isfinite, row))]
    if not rows:
        return Series()
    width = 1.0 if rows[-1][0] >= 1 else max(rows[-1][0], 1e-9) / 50
    found: dict[str, list[float]] = {"epoch": [], "step": [], "examples_seen": [], "loss": []}
    for _, group in groupby(rows, key=lambda row: math.floor(row[0] / width + 1e-9)):
        part = list(group)
        epoch, step, seen, size, _ = part[-1]
        share = size / (seen / epoch) if epoch > 0 else 0.0  # of an epoch: N is examples seen / epoch
        for name, value in (("epoch", epoch + share), ("step", step + 1), ("examples_seen", seen + size)):
            found[name].append(value)
        found["loss"].append(math.fsum(row[3] * row[4] for row in part) / math.fsum(row[3] for row in part))
    return Series(found)

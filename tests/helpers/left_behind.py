"""What a run leaves behind, compared with what another one leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from noisescale.files import read_rows


def compare(expected: Path, found: Path) -> dict[str, str]:
    """Part -> how it differs from that of the reference; empty if it is equal."""
    return {part: _difference(read, expected, found) for part, read in READERS.items()}


def _difference(read: Callable[[Path], Any], expected: Path, found: Path) -> str:
    try:
        there = read(found)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150]
    known = read(expected)
    if isinstance(known, dict) and isinstance(there, dict):
        names = [name for name in {**known, **there} if not _same(known.get(name), there.get(name))]
        return f"{len(names)} differ, {names[0]}: {_short(there.get(names[0]), known.get(names[0]))}" if names else ""
    return "" if _same(known, there) else _short(there, known)


def _short(found: Any, expected: Any) -> str:
    if isinstance(found, list) and isinstance(expected, list):
        lacking = [each for each in expected if each not in found]
        surplus = len(found) - len(expected) + len(lacking)
        return f"{len(lacking)} of {len(expected)} are missing, {surplus} too many"
    return f"{str(found)[:40]} instead of {str(expected)[:40]}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _checkpoint(folder: Path, name: str, part: str) -> Any:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)[part]


def _epochs(folder: Path) -> list[dict[str, str]]:
    timed = ("seconds", "examples_per_second")
    return [{name: value for name, value in row.items() if name not in timed} for row in read_rows(folder / "epochs.csv")]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: sorted((each.step, each.value) for each in events.Scalars(tag)) for tag in sorted(events.Tags()["scalars"])}


def _results(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if "/" in name or name in ("updates", "examples", "status", "reason", "seed")}


READERS: dict[str, Callable[[Path], Any]] = {
    "weights": partial(_checkpoint, name="last", part="state_dict"),
    "optimizer": partial(_checkpoint, name="last", part="optimizer_states"),
    "steps.csv": lambda folder: (folder / "steps.csv").read_text().splitlines(),
    "epochs.csv": _epochs,
    "best.ckpt": lambda folder: {part: _checkpoint(folder, "best", part) for part in ("state_dict", "global_step")},
    "TensorBoard": scalars,
    "results.json": _results,
}

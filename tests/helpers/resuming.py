"""A short run, and what two folders have in common if one holds the run that was interrupted, and the other the one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from noisescale.files import read_rows
from tests.helpers.front_door import Outcome, checkpoint_of, results_of, run

SHORT = ("epochs=3", "threads=1", "logger=csv-only", "batch.last=partial", "data.subset_size=200", "max_micro_batch_size=20")
"""180 training examples: 6 updates in each epoch, five of 32 in two micro-batches and one of 20."""


STEPS = "trainer.max_steps=8"
"""Two updates of the second epoch of `SHORT`."""


def resumed(folder: Path, *words: str) -> Outcome:
    return run(f"resume={folder}", *words)


def refusal(outcome: Outcome) -> str:
    assert outcome.status == 2, (outcome.out, outcome.err)
    assert len(outcome.lines) == 1, outcome.err
    return outcome.lines[0].removeprefix("error: ")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_run(mine: Path, other: Path) -> None:
    assert (mine / "steps.csv").read_text() == (other / "steps.csv").read_text()
    assert epochs_of(mine) == epochs_of(other)
    saved, expected = checkpoint_of(mine), checkpoint_of(other)
    assert saved["state_dict"].keys() == expected["state_dict"].keys()
    assert all(torch.equal(value, expected["state_dict"][name]) for name, value in saved["state_dict"].items())
    assert str(saved["optimizer_states"]) == str(expected["optimizer_states"])
    results, whole = (
        {key: value for key, value in results_of(folder).items() if key.startswith(("test/", "val/", "train/"))} for folder in (mine, other)
    )
    assert results == whole
    for key in ("status", "reason", "updates", "examples", "num_examples", "seed"):
        assert results_of(mine)[key] == results_of(other)[key]


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if "second" not in name} for row in read_rows(folder / "epochs.csv")]

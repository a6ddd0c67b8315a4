"""Runs that get a signal, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noisescale.files import read_rows
from tests.helpers.front_door import checkpoint_of, results_of


def what_matters(folder: Path) -> dict[str, Any]:
    """All that a run leaves which does not depend on the clock."""
    checkpoint = checkpoint_of(folder)
    epochs = [{name: row[name] for name in row if "second" not in name} for row in read_rows(folder / "epochs.csv")]
    return {
        "weights": {name: value.tolist() for name, value in checkpoint["state_dict"].items()},
        "optimizer": str(checkpoint["optimizer_states"]),
        "steps.csv": (folder / "steps.csv").read_text(),
        "epochs.csv": epochs,
        "test": results_of(folder)["test/acc"],
    }


ENDLESS = ("epochs=2000", "threads=1", "scheduler=constant", "logger=csv-only", "callbacks.progress_bar=null")

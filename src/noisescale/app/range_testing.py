"""The job of range_test.py: a learning-rate range test of the training that a config describes, as lines, files and a figure."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from noisescale.app.config import typed
from noisescale.app.measurement_checks import range_options
from noisescale.app.recorded import CONFIG, write_record
from noisescale.app.studied import check_studied, goes_on_after, training_of
from noisescale.files import write_atomically, write_rows
from noisescale.progress import progress_bar

if TYPE_CHECKING:
    from noisescale.studies.range_study import RangeFound

__all__ = ["carry_out_range_test"]

PROGRAM = "range_test.py"

ABOUT = {
    "steepest": "where the loss falls fastest",
    "valley": "in the middle of the longest fall",
    "minimum/10": "a tenth of that of the lowest loss",
}


def carry_out_range_test(cfg: DictConfig) -> int:
    """Carry out the test that `range_test` describes, and write range_test.csv, range_test.json and range_test.png; returns 0.

    Args:
        cfg: the composed config, the same as for training.

    Raises:
        ConfigError: the config is invalid.
        RunInterrupted: it was interrupted.
    """
    run = check_studied(cfg, PROGRAM)
    options = range_options(cfg)
    with goes_on_after(PROGRAM, lambda _: "a range test that has not ended leaves nothing; to begin it again") as folder:
        training, _ = training_of(run)
        from noisescale.app.results import versions
        from noisescale.studies.range_figure import draw_range
        from noisescale.studies.range_study import run_range_test

        write_record(folder / CONFIG, cfg)
        with progress_bar("range test") as progress:
            found = run_range_test(training, options, None if cfg.ckpt_path is None else Path(str(cfg.ckpt_path)), progress)
        rows = ({"lr": lr, "loss": loss} for lr, loss in zip(found.rates, found.losses, strict=True))
        write_rows(folder / "range_test.csv", ("lr", "loss"), rows)
        draw_range(found, " ".join(typed()) or "the default training", folder / "range_test.png", options.ramp)
        suggested, cyclic = found.suggestions.named(), found.suggestions.cyclic
        quoted = training.strategy.lr_factor(0.0, 1.0, found.size, found.num_examples)
        ended = f"ended at lr {found.rates[-1]:.3g}, where the loss had diverged" if found.diverged else "went to its end"
        print(f"{len(found.losses)} updates of B = {found.size}; {ended}")
        if math.isfinite(suggested["steepest"]):
            key = "lr" if run.own_optimizer else "optimizer.lr"
            for name, rate in suggested.items():
                print(f"{name:10} {key}={rate / quoted:.3g}: {ABOUT[name]}")
            low, high = (bound / quoted for bound in cyclic)
            print(f"{'cyclic':10} {key}={high:.3g} scheduler=cyclic scheduler.base_lr={low:.3g}: 10 % and 90 % of the fall")
        else:
            print("no suggestion: the loss does not fall by 5 %, or not by more than chance; try more range_test.updates, or other bounds")
        if run.own_optimizer:
            print(
                f"note: {run.own_optimizer} makes its own optimizer: set its learning rate in your code{_of_groups(found)}", file=sys.stderr
            )
        plain = {name: rate if math.isfinite(rate) else None for name, rate in suggested.items()}
        results: dict[str, Any] = {"suggestions": plain, "cyclic": [bound if math.isfinite(bound) else None for bound in cyclic]}
        results |= {"batch_size": found.size, "lr_factor": quoted, "diverged": found.diverged, "overrides": typed(), **versions()}
        write_atomically(folder / "range_test.json", json.dumps(results, indent=2) + "\n")
    for name in ("range_test.csv", "range_test.json", "range_test.png"):
        print(os.path.relpath(folder / name))
    return 0


def _of_groups(found: RangeFound) -> str:
    """Which parameter group the rates are those of, if there are several."""
    if len(found.ratios) == 1:
        return ""
    return f"; it is that of the first parameter group, and the ratios of the groups are {', '.join(f'{each:g}' for each in found.ratios)}"

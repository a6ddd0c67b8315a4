"""The job of branches.py: the critical batch size of the training that a config describes, as a table, files and a figure."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.config import errors_under, typed
from noisescale.app.measurement_checks import branch_options
from noisescale.app.recorded import CONFIG, write_record
from noisescale.app.studied import check_studied, goes_on_after, training_of
from noisescale.errors import ConfigError
from noisescale.files import write_atomically
from noisescale.progress import progress_bar

__all__ = ["branch"]

PROGRAM = "branches.py"


def branch(cfg: DictConfig) -> int:
    """Carry out the study that `branches` describes, and write branches.csv, points.csv, branches.json and branches.png; returns 0.

    Args:
        cfg: the composed config, the same as for training.

    Raises:
        ConfigError: the config is invalid.
        RunInterrupted: it was interrupted, and said how to go on.
    """
    run = check_studied(cfg, PROGRAM)
    options = branch_options(cfg)
    if cfg.ckpt_path is None:
        with errors_under("branches"):
            options.times(cfg.epochs)
    elif options.at is not None:
        raise ConfigError("branches.at", list(options.at), "the branches begin at a checkpoint", "leave it out")
    with goes_on_after(PROGRAM) as folder:
        training, identity = training_of(run)
        from noisescale.app.results import versions
        from noisescale.studies.branch_figure import draw_branches
        from noisescale.studies.branch_results import PointFound
        from noisescale.studies.branch_study import run_branches
        from noisescale.studies.branch_table import print_point
        from noisescale.studies.branch_words import in_words

        write_record(folder / CONFIG, cfg)
        checkpoint = None if cfg.ckpt_path is None else Path(str(cfg.ckpt_path))

        def tell(found: PointFound) -> None:
            print_point(found, options)

        with progress_bar("training branches") as progress:
            try:
                found = run_branches(training, options, folder, identity, checkpoint, progress, tell)
            except ConfigError as error:
                raise (error.under("branches") if error.key in cfg.branches else error) from error
        for line in in_words(found):
            print(line)
        limits = {"tolerance": options.tolerance, "gain_tolerance": options.gain_tolerance}
        results = {"points": [each.plain() for each in found], **limits, "overrides": typed(), **versions()}
        write_atomically(folder / "branches.json", json.dumps(results, indent=2) + "\n")
        draw_branches(found, " ".join(typed()) or "the default training", folder / "branches.png")
    for name in ("branches.csv", "branches.json", "branches.png"):
        print(os.path.relpath(folder / name), file=sys.stdout)
    return 0

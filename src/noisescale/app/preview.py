"""The job of plan.py: turn a composed config into a table, plan.csv and a figure, without training and without decoding any data."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from textwrap import fill

from omegaconf import DictConfig

from noisescale.app.composed import Composed, num_examples, read_config
from noisescale.app.config import in_sweep, output_dir, typed
from noisescale.app.devices import check_counts
from noisescale.app.recorded import CONFIG, write_record
from noisescale.app.run_folder import refuse_folder_of_another
from noisescale.errors import ConfigError
from noisescale.files import set_aside
from noisescale.plans.bounds import bounds_in_words
from noisescale.plans.checks import AUTO
from noisescale.plans.plan import Plan
from noisescale.plans.summary import summarize, write_plan
from noisescale.plans.warnings import plan_warnings, rule_warnings
from noisescale.progress import progress_bar
from noisescale.studies.claims.kept import claims_behind, verdicts_in_words

__all__ = ["preview"]


def preview(cfg: DictConfig, results: Path | None = None) -> int:
    """Print what the training would do, phase by phase, and write plan.csv and plan.png; returns the exit status, 0.

    Args:
        cfg: the composed config, the same as for training.
        results: the folder of the verdicts on claims, for those that the plan relies on.

    Raises:
        ConfigError: the config is invalid.
    """
    if cfg.get("resume") is not None:
        config = os.path.relpath(Path(str(cfg.resume)) / CONFIG)
        raise ConfigError(
            "resume", cfg.resume, "plan.py trains nothing", f"for its plan: python plan.py --config-path {shlex.quote(config)}"
        )
    refuse_folder_of_another(output_dir(), "plan")
    run = read_config(cfg)
    check_counts(cfg)
    examples = num_examples(cfg)
    with progress_bar("checking the plan") as progress:
        plan = run.plan(examples, progress=progress)
    if plan.monitors:
        return _preview_undecided(cfg, run, plan)
    with progress_bar("reading the plan") as progress:
        summary = summarize(plan, run.lr, run.momentum, run.optimizer, progress)
    if in_sweep():
        print(f"{' '.join(typed())}: {summary.comparison()}")
    else:
        from noisescale.studies.plan_table import WIDTH, print_plan

        print_plan(summary)
        for line in (
            verdicts_in_words(claims_behind(plan.schedule, plan.strategy, run.optimizer), results, results.parent) if results else ()
        ):
            print(fill(f"measured: {line}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    if run.own_optimizer:
        note = "makes its own optimizer, known only when it runs: lr and g are those of SGD with a learning rate of 1"
        print(f"note: {run.own_optimizer} {note}", file=sys.stderr)
    if cfg.max_micro_batch_size == AUTO:
        print(f"note: max_micro_batch_size={AUTO} is found where the training starts; this plan has no limit", file=sys.stderr)
    for note in (*run.notes, *plan_warnings(summary, run.optimizer, run.weight_decay)):
        print(f"note: {note}", file=sys.stderr)

    write_record(output_dir() / CONFIG, cfg)
    rows, limit, table, figure = summary.total, cfg.plan_csv_rows, output_dir() / "plan.csv", output_dir() / "plan.png"
    if limit is None or rows <= limit:
        with progress_bar("writing plan.csv") as progress:
            write_plan(summary, table, progress)
    else:
        set_aside(table)  # that of another plan
        print(f"note: plan.csv, a row per update, is left out above plan_csv_rows={limit}; plan_csv_rows=null writes it", file=sys.stderr)
    from noisescale.studies.plan_figure import draw_plan

    draw_plan(summary, " ".join(typed()) or "the default plan", figure)
    for path in (table, figure):
        if path.exists():
            print(os.path.relpath(path))
    return 0


def _preview_undecided(cfg: DictConfig, run: Composed, plan: Plan) -> int:
    """The same of a plan that is decided during the training, of which only bounds are known; it has neither plan.csv nor a figure."""
    lines = bounds_in_words(plan, run.lr)
    if in_sweep():
        print(f"{' '.join(typed())}: {lines[-1]}")
    else:
        devices = f"{plan.world_size} device{'s' if plan.world_size > 1 else ''}"
        print("\n".join([f"N = {plan.num_examples}, {plan.epochs} epochs, {devices}", *lines]))
    for note in (*run.notes, *rule_warnings(plan, run.optimizer, run.weight_decay)):
        print(f"note: {note}", file=sys.stderr)
    write_record(output_dir() / CONFIG, cfg)
    for path in (output_dir() / "plan.csv", output_dir() / "plan.png"):
        set_aside(path)  # that of another plan
    return 0

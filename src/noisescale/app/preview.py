"""The planner's job: from a composed config to a table, plan.csv and a figure, with no training and no data read."""

from __future__ import annotations

import os
import sys
from io import StringIO
from itertools import groupby
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from noisescale.app.command import in_sweep, output_dir
from noisescale.app.composed import followed_rule, num_examples, optimizer_of, plan_of, schedule_and_strategy
from noisescale.errors import check_count
from noisescale.plans.phases import Phase
from noisescale.plans.summary import PlanSummary, summarize, write_plan
from noisescale.plans.warnings import plan_warnings

__all__ = ["preview"]


def preview(cfg: DictConfig) -> int:
    """Print what training would do, phase by phase; leave plan.csv and plan.png; returns the exit status, 0.

    Args:
        cfg: the composed config, as for training.

    Raises:
        ConfigError: input that cannot be carried out.
    """
    schedule, strategy = schedule_and_strategy(cfg)
    check_count("trainer.devices", cfg.trainer.devices, unit="devices")
    plan = plan_of(cfg, schedule, strategy, num_examples(cfg))
    optimizer, weight_decay = optimizer_of(cfg)
    summary = summarize(plan, cfg.optimizer.lr, cfg.optimizer.get("momentum") or 0.0, optimizer)
    typed = " ".join(HydraConfig.get().overrides.task)
    _say(summary, [*followed_rule(cfg, strategy), *plan_warnings(summary, optimizer, weight_decay)], typed)
    write_plan(summary, output_dir() / "plan.csv")
    from noisescale.studies.plan_figure import draw_plan

    draw_plan(summary, typed or "the default plan", output_dir() / "plan.png")
    run = os.path.relpath(output_dir())
    print(f"{run}/plan.csv, {run}/plan.png")
    return 0


def _say(summary: PlanSummary, notes: list[str], typed: str) -> None:
    if in_sweep():
        print(f"{typed}: {summary.comparison()}")
    else:
        _print_table(summary)
        print(summary.comparison())
        if summary.momentum > 0:
            sizes = [update.planned_batch_size for update in summary.updates]
            memory = _range([summary.memory(min(sizes)), summary.memory(max(sizes))], 2)
            print(f"momentum {summary.momentum:g} remembers B/(N(1-m)) = {memory} epochs")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _print_table(summary: PlanSummary) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    plan = summary.plan
    table = Table(box=box.SIMPLE_HEAD, title=f"N = {plan.num_examples}, {plan.epochs} epochs", title_justify="left")
    for column in _columns(summary):
        table.add_column(column, justify="right")
    # The phases of a wave look alike: they become one row.
    for cells, group in groupby(summary.phases, key=lambda phase: _cells(summary, phase)):
        phases = list(group)
        table.add_row(f"{phases[0].start:.4g} to {phases[-1].end:.4g}", *cells, str(sum(phase.updates for phase in phases)))
    if sys.stdout.isatty():
        Console().print(table)
    else:
        text = Console(width=240, file=StringIO())
        text.print(table)
        assert isinstance(text.file, StringIO)
        print("\n".join(line.rstrip() for line in text.file.getvalue().splitlines()).rstrip())


def _columns(summary: PlanSummary) -> list[str]:
    devices = summary.plan.world_size
    columns = ["epochs", "lr", "B", f"micro x accumulate x {devices} device{'s' if devices > 1 else ''}", "g"]
    columns += ["g/(1-m)"] if summary.momentum > 0 else []
    columns += [] if summary.keeps_g else [summary.matched_noise_formula()]
    return [*columns, "updates"]


def _cells(summary: PlanSummary, phase: Phase) -> tuple[str, ...]:
    """A row without its epochs and its updates: the first and the last full update of a phase."""
    plan, ends = summary.plan, (phase.first, phase.last)
    noises = [summary.noise(update) for update in ends]
    cells = [
        _range([summary.rate(update) for update in ends]),
        _range([update.effective_batch_size for update in ends]),
        " to ".join(dict.fromkeys(f"{plan.micro_batch_size(update)} x {update.accumulate_grad_batches}" for update in ends)),
        _range(noises),
    ]
    cells += [_range([noise / (1.0 - summary.momentum) for noise in noises])] if summary.momentum > 0 else []
    cells += (
        [] if summary.keeps_g else [_range([summary.matched_noise(summary.rate(update), update.effective_batch_size) for update in ends])]
    )
    return tuple(cells)


def _range(values: list[Any], digits: int = 4) -> str:
    return " to ".join(dict.fromkeys(f"{value}" if isinstance(value, int) else f"{value:.{digits}g}" for value in values))

"""The planner's job: from a composed config to a table, plan.csv and a figure, with no training and no data read."""

from __future__ import annotations

import os
import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from noisescale.choices import followed_rule, ghost_batch_size, num_examples, schedule_and_strategy, update_limits
from noisescale.errors import check_count
from noisescale.frontdoor import errors_under, in_sweep, output_dir
from noisescale.planning import Plan
from noisescale.reporting.outlook import Outlook, look_ahead, write_plan

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
    n = num_examples(cfg)
    with errors_under("batch"):
        plan = Plan(
            schedule,
            strategy,
            n,
            cfg.epochs,
            cfg.trainer.devices,
            cfg.max_micro_batch_size,
            ghost_batch_size(cfg),
            **update_limits(cfg),
        )
    optimizer = str(cfg.optimizer.get("_target_")).rpartition(".")[2]
    momentum, decay = cfg.optimizer.get("momentum") or 0.0, cfg.optimizer.get("weight_decay") or 0.0
    outlook = look_ahead(plan, cfg.optimizer.lr, momentum, optimizer, decay)
    typed = " ".join(HydraConfig.get().overrides.task)
    _say(outlook, followed_rule(cfg, strategy), typed)
    write_plan(outlook, output_dir() / "plan.csv")
    from noisescale.reporting.plan_figure import draw_plan

    draw_plan(outlook, typed or "the default plan", output_dir() / "plan.png")
    run = os.path.relpath(output_dir())
    print(f"{run}/plan.csv, {run}/plan.png")
    return 0


def _say(outlook: Outlook, rule: list[str], typed: str) -> None:
    if in_sweep():
        print(f"{typed}: {outlook.comparison()}")
    else:
        _print_table(outlook)
        print(outlook.comparison())
        if outlook.momentum > 0:
            sizes = sorted(outlook.updates, key=lambda update: update.planned_batch_size)
            memories = " to ".join(dict.fromkeys(f"{outlook.memory(update):.2g}" for update in (sizes[0], sizes[-1])))
            print(f"momentum {outlook.momentum:g} remembers B/(N(1-m)) = {memories} epochs")
    for note in [*rule, *outlook.notes]:
        print(f"note: {note}", file=sys.stderr)


def _print_table(outlook: Outlook) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    plan = outlook.plan
    table = Table(box=box.SIMPLE_HEAD, title=f"N = {plan.num_examples}, {plan.epochs} epochs", title_justify="left")
    columns = ["epochs", "lr", "B", f"micro x accumulate x {plan.world_size} device{'s' if plan.world_size > 1 else ''}", "g"]
    columns += ["g/(1-m)"] if outlook.momentum > 0 else []
    kept = outlook.rule != "sgd"
    columns += [outlook.kept_in_words()] if kept else []
    for column in [*columns, "updates"]:
        table.add_column(column, justify="right")
    for phase in outlook.phases:
        ends = (phase.first, phase.last)
        noises = [outlook.noise(update) for update in ends]
        cells = [
            f"{phase.start:.4g} to {phase.end:.4g}",
            _range([outlook.rate(update) for update in ends]),
            _range([update.effective_batch_size for update in ends]),
            " to ".join(dict.fromkeys(f"{plan.micro_batch_size(update)} x {update.accumulate_grad_batches}" for update in ends)),
            _range(noises),
        ]
        cells += [_range([noise / (1.0 - outlook.momentum) for noise in noises])] if outlook.momentum > 0 else []
        cells += [_range([outlook.kept(outlook.rate(update), update.effective_batch_size) for update in ends])] if kept else []
        table.add_row(*cells, str(phase.updates))
    width = None if sys.stdout.isatty() else 140
    Console(width=width).print(table)


def _range(values: list[Any]) -> str:
    return " to ".join(dict.fromkeys(f"{value}" if isinstance(value, int) else f"{value:.4g}" for value in values))

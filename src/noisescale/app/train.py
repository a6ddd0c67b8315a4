"""The job of train.py: turn a composed config into a trained model and its files."""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from noisescale.app.composed import Composed, known_examples, read_config
from noisescale.app.config import errors_under, output_dir
from noisescale.app.devices import accelerator_of, check_devices
from noisescale.app.libraries import import_libraries
from noisescale.app.requeued import go_on_if_requeued
from noisescale.app.sweeps import recorded_run
from noisescale.plans.plan import Plan
from noisescale.plans.warnings import cap_warnings, rule_warnings

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from noisescale.app.outcome import Outcome

__all__ = ["Trained", "carry_out", "train"]

DIVERGED = 3
"""Exit status of a single run whose loss became nan or inf."""


@dataclass(frozen=True)
class Trained:
    """A run that was carried out: how it ended, and what was trained with what."""

    outcome: Outcome
    module: pl.LightningModule
    data: pl.LightningDataModule
    trainer: pl.Trainer


def train(cfg: DictConfig, script: Path) -> int:
    """Carry out one run; returns the exit status: 0, or 3 for a run that diverged. See `carry_out`."""
    go_on_if_requeued(cfg)
    with recorded_run():
        return DIVERGED if carry_out(cfg, script).outcome.status == "diverged" else 0


def carry_out(cfg: DictConfig, script: Path) -> Trained:
    """Train, test, and write results.json.

    Everything that can be checked without torch is checked before torch is imported, and everything that can be checked without the data
    before the data are read.

    Args:
        cfg: the composed config.
        script: the program that was started, such as train.py; it is started again for each further device.

    Raises:
        ConfigError: the config is invalid.
        KeyboardInterrupt: the run was interrupted; its files have been written.
    """
    run = read_config(cfg)
    devices = check_devices(cfg)
    if (known := known_examples(cfg)) is not None:
        run.plan(known)  # raises before the long imports if a batch size does not fit N
    import_libraries()
    accelerator = accelerator_of(cfg)
    from noisescale.app.launchers.ranks import is_child, other_ranks
    from noisescale.app.loggers import check_loggers
    from noisescale.app.module import check_task
    from noisescale.app.own_data import build_data, train_size

    check_loggers(cfg)
    data = build_data(cfg)
    check_task(cfg, data)
    plan = run.plan(train_size(cfg, data, prepare=not is_child()))
    if not is_child():
        for note in (*run.notes, *rule_warnings(plan, run.optimizer, run.weight_decay), *cap_warnings(plan, plan)):
            print(f"note: {note}", file=sys.stderr)
            warnings.filterwarnings("ignore", message=re.escape(note))  # BatchSizeScheduler says some of them, too
        with errors_under("data"):
            data.prepare_data()
    with other_ranks(devices, script, output_dir()):
        return _fit_and_report(run, data, plan, accelerator)


def _fit_and_report(run: Composed, data: pl.LightningDataModule, plan: Plan, accelerator: str) -> Trained:
    """Build, fit and test on each device, and write the results on the first one."""
    import torch

    from noisescale.app.loggers import RunLoggers
    from noisescale.app.module import build_module, build_optimizer, micro_batch_weight
    from noisescale.app.outcome import fit_and_test
    from noisescale.app.own_data import set_up
    from noisescale.app.results import leave_results
    from noisescale.app.trainer import build_trainer
    from noisescale.callbacks import BatchSizeScheduler
    from noisescale.execution.batch_norm import min_micro_batch_size

    cfg = run.cfg
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    optimizer, weight = build_optimizer(cfg), micro_batch_weight(cfg)
    set_up(data)
    module = build_module(cfg, data, optimizer)
    run.plan(plan.num_examples, min_micro_batch_size(module, plan.world_size))
    batches = BatchSizeScheduler(
        run.strategy,
        run.schedule if run.sets_rate else None,
        max_micro_batch_size=cfg.max_micro_batch_size,
        micro_batch_multiple=run.ghost_batch_size,
        seed=cfg.seed,
        weight=weight,
        check_cuts=cfg.check_cuts,
    )
    trainer = build_trainer(cfg, module, data, batches, accelerator)
    with RunLoggers(cfg, trainer) as loggers:
        outcome = fit_and_test(cfg, trainer, module, data, batches)
        if trainer.is_global_zero:
            leave_results(cfg, outcome, plan.num_examples)
            loggers.report(outcome.metrics, outcome.updates, succeeded=outcome.status not in ("diverged", "interrupted"))
    if outcome.status == "interrupted":
        raise outcome.exit or KeyboardInterrupt
    return Trained(outcome, module, data, trainer)

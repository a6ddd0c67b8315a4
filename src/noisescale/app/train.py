"""The job of train.py: turn a composed config into a trained model and its files."""

from __future__ import annotations

import re
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from noisescale.app.checks import check_targets
from noisescale.app.composed import Composed, known_examples, read_config
from noisescale.app.config import errors_under, output_dir
from noisescale.app.devices import accelerator_of, check_devices
from noisescale.app.interruption import RunInterrupted, say_how_to_resume
from noisescale.app.libraries import import_libraries
from noisescale.app.requeued import go_on_if_requeued
from noisescale.app.resume import already_complete
from noisescale.app.run_folder import RunFolder, goes_on_in, run_folder
from noisescale.app.sweeps import recorded_run
from noisescale.app.without_effect import notes_of_plan
from noisescale.plans.plan import Plan
from noisescale.plans.warnings import cap_warnings, rule_warnings
from noisescale.progress import progress_bar

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
    complete = already_complete(cfg)
    if complete:
        print(complete)
        return 0
    with recorded_run(goes_on_in(cfg, output_dir())):
        return DIVERGED if carry_out(cfg, script).outcome.status == "diverged" else 0


def carry_out(cfg: DictConfig, script: Path) -> Trained:
    """Train, test, and write results.json.

    Everything that can be checked without torch is checked before torch is imported, and everything that can be checked without the data
    before the data are read.

    Args:
        cfg: the composed config.
        script: the program that was started, such as train.py; it is started again for each further device.

    Raises:
        ConfigError: the config is invalid, or another run is carried out in the same folder.
        RunInterrupted: the run was interrupted; its files have been written.
    """
    with run_folder(cfg) as folder:
        return _carry_out(cfg, script, folder)


def _carry_out(cfg: DictConfig, script: Path, folder: RunFolder) -> Trained:
    run = read_config(cfg)
    devices = check_devices(cfg)
    if (known := known_examples(cfg)) is not None:
        with progress_bar("checking the plan") as progress:
            run.plan(known, progress=progress)  # raises before the long imports if a batch size does not fit N
    import_libraries()
    check_targets(cfg)
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
        with progress_bar("reading the plan") as progress:
            caps = cap_warnings(plan, progress)
        for note in (*run.notes, *notes_of_plan(cfg, plan), *rule_warnings(plan, run.optimizer, run.weight_decay), *caps):
            print(f"note: {note}", file=sys.stderr)
            warnings.filterwarnings("ignore", message=re.escape(note))  # BatchSizeScheduler says some of them, too
        with errors_under("data"):
            data.prepare_data()
    folder.begin(cfg)
    with other_ranks(devices, script, folder.record, cfg.rank_timeout):
        return _fit_and_report(run, data, plan, accelerator, folder)


def _fit_and_report(run: Composed, data: pl.LightningDataModule, plan: Plan, accelerator: str, folder: RunFolder) -> Trained:
    """Build, fit and test on each device, and write the results on the first one."""
    import torch

    from noisescale.app.faults import quiet_threads
    from noisescale.app.loggers import RunLoggers
    from noisescale.app.module import build_module, build_optimizer, micro_batch_weight
    from noisescale.app.outcome import fit_and_test
    from noisescale.app.own_data import set_up
    from noisescale.app.results import leave_results
    from noisescale.app.trainer import build_trainer
    from noisescale.app.weights import load_weights
    from noisescale.callbacks import BatchSizeScheduler
    from noisescale.execution.batch_norm import min_micro_batch_size

    cfg = run.cfg
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    optimizer, weight = build_optimizer(cfg), micro_batch_weight(cfg)
    set_up(data)
    module = build_module(cfg, data, optimizer)
    load_weights(cfg, module)
    run.plan(plan.num_examples, min_micro_batch_size(module, plan.world_size))
    batches = BatchSizeScheduler(
        run.strategy,
        run.schedule if run.sets_rate else None,
        max_micro_batch_size=cfg.max_micro_batch_size,
        micro_batch_margin=cfg.micro_batch_margin,
        micro_batch_multiple=run.ghost_batch_size,
        seed=cfg.seed,
        weight=weight,
        split_every=cfg.get("split_every"),
        check_cuts=cfg.check_cuts,
    )
    trainer = build_trainer(cfg, module, data, batches, accelerator)
    with quiet_threads(), RunLoggers(cfg, trainer) as loggers:
        outcome = fit_and_test(cfg, trainer, module, data, batches, untested=folder.untested)
        if outcome.failure is not None:
            if trainer.is_global_zero:
                with suppress(OSError):  # results.json where it can be written; the failure itself is reported in any case
                    leave_results(cfg, outcome, plan.num_examples)
            raise outcome.failure
        if trainer.is_global_zero:
            loggers.report(outcome.metrics, outcome.updates, succeeded=outcome.status not in ("diverged", "interrupted"))
            leave_results(cfg, outcome, plan.num_examples)  # last of all: a run that has it lacks nothing
    if outcome.exit is not None:
        raise outcome.exit
    if outcome.interrupted is not None:
        if trainer.is_global_zero:
            say_how_to_resume(outcome.interrupted, outcome.reason)
        raise RunInterrupted(int(outcome.interrupted.code or 1), outcome.interrupted.reason)
    return Trained(outcome, module, data, trainer)

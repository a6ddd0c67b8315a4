"""The job of train.py: turn a composed config into a trained model and its files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from noisescale.app.composed import Composed, known_examples, read_config
from noisescale.app.config import errors_under, output_dir
from noisescale.app.libraries import import_libraries
from noisescale.errors import ConfigError, check_count
from noisescale.plans.plan import Plan
from noisescale.plans.warnings import cap_warnings, rule_warnings

if TYPE_CHECKING:
    import pytorch_lightning as pl

__all__ = ["train"]

DIVERGED = 3
"""Exit status of a single run whose loss became nan or inf."""


def train(cfg: DictConfig, script: Path) -> int:
    """Train, test, and write results.json; returns the exit status: 0, or 3 for a run that diverged.

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
    devices = _devices(cfg)
    if (known := known_examples(cfg)) is not None:
        run.plan(known)  # raises before the long imports if a batch size does not fit N
    import_libraries()
    from noisescale.app.launchers.ranks import is_child, other_ranks
    from noisescale.app.module import check_task
    from noisescale.app.own_data import build_data, train_size

    data = build_data(cfg)
    check_task(cfg, data)
    plan = run.plan(train_size(cfg, data, prepare=not is_child()))
    if not is_child():
        for note in (*run.notes, *rule_warnings(plan, run.optimizer, run.weight_decay), *cap_warnings(plan, plan)):
            print(f"note: {note}", file=sys.stderr)
        with errors_under("data"):
            data.prepare_data()
    with other_ranks(devices, script, output_dir()):
        return _fit_and_report(run, data, plan)


def _devices(cfg: DictConfig) -> int:
    """W, the number of devices of the run, which this machine must have. Imports torch only to count GPUs."""
    check_count("trainer.devices", cfg.trainer.devices, unit="devices")
    count: int = cfg.trainer.devices
    if cfg.trainer.accelerator == "gpu":
        import_libraries()
        import torch

        available, kind, remedy = torch.cuda.device_count(), "GPUs", "use trainer=cpu or ddp_cpu"
    else:
        available, kind, remedy = max(2, os.cpu_count() or 1), "CPU processes", "one process uses all cores"
    if count > available:
        raise ConfigError("trainer.devices", count, f"this machine has {available} {kind}", remedy)
    return count


def _fit_and_report(run: Composed, data: pl.LightningDataModule, plan: Plan) -> int:
    """Build, fit and test on each device, and write the results on the first one. Returns the exit status."""
    import torch

    from noisescale.app.module import build_module, build_optimizer
    from noisescale.app.outcome import fit_and_test
    from noisescale.app.own_data import set_up
    from noisescale.app.results import leave_results
    from noisescale.app.trainer import build_trainer
    from noisescale.callbacks import BatchSizeScheduler

    cfg = run.cfg
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    optimizer = build_optimizer(cfg)
    set_up(data)
    module = build_module(cfg, data, optimizer)
    batches = BatchSizeScheduler(
        run.strategy,
        run.schedule,
        max_micro_batch_size=cfg.max_micro_batch_size,
        micro_batch_multiple=run.ghost_batch_size,
        seed=cfg.seed,
    )
    trainer = build_trainer(cfg, module, data, batches)
    outcome = fit_and_test(cfg, trainer, module, data, batches)
    if trainer.is_global_zero:
        leave_results(cfg, outcome, trainer, plan.num_examples)
    if outcome.status == "interrupted":
        raise KeyboardInterrupt
    return DIVERGED if outcome.status == "diverged" else 0

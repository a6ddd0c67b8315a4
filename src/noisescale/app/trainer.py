"""Build the Trainer that a config describes, with its callbacks and its logger."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import cache
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from noisescale.app.config import as_plain, build, in_sweep, refusal
from noisescale.app.module import MONITORED
from noisescale.app.own_data import free_on_resume, has_loader, has_step, sizes
from noisescale.callbacks import BatchSizeScheduler, SameRun
from noisescale.errors import ConfigError
from noisescale.execution.compile_first import CompileFirst
from noisescale.execution.lean import NoProfiler
from noisescale.models.building import FREE_ON_RESUME
from noisescale.models.optimizers import OptimizerFactory

__all__ = ["build_trainer"]


def build_trainer(cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, batches: BatchSizeScheduler) -> pl.Trainer:
    """A Trainer that carries out a plan.

    Args:
        cfg: the composed config.
        module: what it will train.
        data: the data, after their `setup`.
        batches: the callback that carries out the plan.

    Raises:
        ConfigError: a callback, a logger or a key of the Trainer is invalid.
    """
    quiet_lightning()
    callbacks: list[pl.Callback] = [batches, SameRun(_choices_of_run(cfg, data))]
    if cfg.model.get("compile"):
        callbacks.append(CompileFirst(sizes(data)["input_shape"], cfg.model.compile))
    validates = has_loader(data, "val") and has_step(module, "validation_step")
    callbacks += _chosen_callbacks(cfg, has_validation=validates)
    trainer: pl.Trainer = build(
        cfg,
        "trainer",
        callbacks=callbacks,
        logger=_logger(cfg) if cfg.logger else False,
        enable_progress_bar=any("ProgressBar" in type(callback).__name__ for callback in callbacks),
        enable_checkpointing=any("Checkpoint" in type(callback).__name__ for callback in callbacks),
        use_distributed_sampler=False,
        **({} if validates else {"limit_val_batches": 0}),  # otherwise Lightning warns about what is missing
        **({} if cfg.trainer.get("profiler") is not None else {"profiler": NoProfiler()}),
    )
    return trainer


def _chosen_callbacks(cfg: DictConfig, has_validation: bool) -> list[pl.Callback]:
    """The callbacks of the config that make sense in this run: no progress bar in a log file, no best checkpoint without validation."""
    chosen = []
    for name, callback in build(cfg, "callbacks").items():
        if callback is None:
            continue  # switched off: callbacks.best=null
        if not isinstance(callback, pl.Callback):
            raise ConfigError(f"callbacks.{name}", callback, "must be a callback", f"give callbacks.{name}._target_ and its arguments")
        if name == "progress_bar" and (in_sweep() or not sys.stderr.isatty()):
            continue
        monitor = str(getattr(callback, "monitor", None) or "")
        if monitor.startswith("val") and not has_validation:
            continue
        if monitor and cfg.module.get("_target_") is not None and monitor == cfg.task.monitor:
            # The metric of a task that is not trained; what a module of the user's own logs is not known here.
            if os.environ.get("LOCAL_RANK", "0") == "0":
                remedy = f"choose a metric of your module: callbacks.{name}.monitor=... callbacks.{name}.mode=min"
                print(f"note: callbacks.{name} is left out: it goes by {monitor}, the metric of a task; {remedy}", file=sys.stderr)
            continue
        chosen.append(callback)
    return chosen


def _choices_of_run(cfg: DictConfig, data: pl.LightningDataModule) -> dict[str, Any]:
    """The choices that a resumed run must not change: what is trained, the data and the optimizer, but not how they are computed."""
    free = {"data": free_on_resume(data), "optimizer": OptimizerFactory.free_on_resume}
    if cfg.module.get("_target_") is None:
        free |= {"model": FREE_ON_RESUME, "task": frozenset(MONITORED)}
    else:
        free |= {"module": frozenset()}
    choices: dict[str, Any] = {"seed": cfg.seed}
    for group, keys in free.items():
        choices |= {f"{group}.{key}": value for key, value in as_plain(cfg[group]).items() if key not in keys and key != "_partial_"}
    if choices.get("data.seed") == cfg.seed:
        del choices["data.seed"]  # it is the same choice as `seed`, which is the name that the user knows
    return choices


def _logger(cfg: DictConfig) -> Logger:
    logger = build(cfg, "logger")
    if not isinstance(logger, Logger):
        key = next(iter(cfg.logger))
        remedy = "choose logger=tensorboard, or set logger._target_"
        raise ConfigError(f"logger.{key}", cfg.logger[key], "does not belong to any logger", remedy)
    try:
        # Lightning would create the writer only at the first value, and would refuse unknown arguments only then.
        getattr(logger, "experiment", None)
    except Exception as error:
        refused = refusal(cfg, "logger", error)
        if refused is None:
            raise
        raise refused from error
    return logger


@cache
def quiet_lightning() -> None:
    """Show our own messages, and drop Lightning's tips and those of its warnings that do not apply here."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    log.addFilter(lambda record: "noisescale" in record.pathname)
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*exists and is not empty.*",
        ".*smaller than the logging interval.*",
        ".*dirpath has changed.*",
    ):
        warnings.filterwarnings("ignore", message=message)

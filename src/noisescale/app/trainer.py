"""Build the Trainer that a config describes, with its callbacks and its logger."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

import noisescale
from noisescale.app.config import as_plain, build, in_sweep, refusal
from noisescale.callbacks import BatchSizeScheduler, SameRun
from noisescale.data import ImageDataModule
from noisescale.errors import ConfigError
from noisescale.execution.compile_first import CompileFirst
from noisescale.execution.lean import NoProfiler
from noisescale.models.building import FREE_ON_RESUME
from noisescale.models.optimizers import OptimizerFactory

__all__ = ["build_trainer"]


def build_trainer(cfg: DictConfig, data: ImageDataModule, batches: BatchSizeScheduler) -> pl.Trainer:
    """A Trainer that carries out a plan.

    Args:
        cfg: the composed config.
        data: the data, after their `setup`.
        batches: the callback that carries out the plan.

    Raises:
        ConfigError: a callback, a logger or a key of the Trainer is invalid.
    """
    quiet_lightning()
    callbacks: list[pl.Callback] = [batches, SameRun(_choices_of_run(cfg, data))]
    if cfg.model.get("compile"):
        callbacks.append(CompileFirst((data.in_channels, *data.image_size), cfg.model.compile))
    callbacks += _chosen_callbacks(cfg, has_validation=data.val_fraction > 0)
    trainer: pl.Trainer = build(
        cfg,
        "trainer",
        callbacks=callbacks,
        logger=_logger(cfg) if cfg.logger else False,
        enable_progress_bar=any("ProgressBar" in type(callback).__name__ for callback in callbacks),
        enable_checkpointing=any("Checkpoint" in type(callback).__name__ for callback in callbacks),
        use_distributed_sampler=False,
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
        if str(getattr(callback, "monitor", None) or "").startswith("val/") and not has_validation:
            continue
        chosen.append(callback)
    return chosen


def _choices_of_run(cfg: DictConfig, data: ImageDataModule) -> dict[str, Any]:
    """The choices that a resumed run must not change: the model, the data and the optimizer, but not how they are computed."""
    free = {"data": data.free_on_resume, "model": FREE_ON_RESUME, "optimizer": OptimizerFactory.free_on_resume}
    choices: dict[str, Any] = {"seed": cfg.seed, "label_smoothing": cfg.label_smoothing}
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
    """Show our own messages, each in one line, and drop Lightning's tips and those of its warnings that do not apply here."""
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
    of_python, package = warnings.formatwarning, str(Path(noisescale.__file__).parent)

    def formatwarning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        return f"note: {message}\n" if filename.startswith(package) else of_python(message, category, filename, lineno, line)

    warnings.formatwarning = formatwarning

"""Build the Trainer that a config describes, with its callbacks and its logger."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.io import TorchCheckpointIO

import noisescale
from noisescale.app.changes import plan_of_run
from noisescale.app.config import as_plain, build, in_sweep, options, output_dir
from noisescale.app.launchers.connection import connection
from noisescale.app.module import MONITORED
from noisescale.app.monitors import (
    TypedPatience,
    check_plan_monitors,
    declared_metrics,
    no_validation,
    with_their_metrics,
    without_task_metric,
)
from noisescale.app.own_data import free_on_resume, has_loader, has_step, sizes
from noisescale.app.spelling import as_typed
from noisescale.callbacks import BatchSizeScheduler, SafeCheckpointIO, SameRun, SaveOnOutOfMemory, StopOnSignal
from noisescale.errors import ConfigError
from noisescale.execution.compile_first import CompileFirst
from noisescale.execution.lean import NoProfiler
from noisescale.execution.quiet import is_ours
from noisescale.models.building import FREE_ON_RESUME
from noisescale.models.optimizers import OptimizerFactory
from noisescale.studies.runs import last_checkpoint

__all__ = ["build_trainer", "choices_of_run", "quiet_lightning"]

ADDED = ("early_stopping", "averaging")
"""Groups whose option is a callback beside those of `callbacks`."""


def build_trainer(
    cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, batches: BatchSizeScheduler, accelerator: str
) -> pl.Trainer:
    """A Trainer that carries out a plan, without the loggers of the config: see `RunLoggers`.

    Args:
        cfg: the composed config.
        module: what is trained.
        data: the data, after their `setup`.
        batches: the callback that carries out the plan.
        accelerator: Lightning's name of the accelerator.

    Raises:
        ConfigError: a callback or a key of the Trainer is invalid.
    """
    quiet_lightning()
    plain: Any = {"callbacks": as_plain(cfg.callbacks)}
    same_run = SameRun(choices_of_run(cfg, data), plan_of_run(cfg, batches))
    last = last_checkpoint(output_dir(), plain)
    callbacks: list[pl.Callback] = [batches, same_run, TypedPatience(), StopOnSignal(last), SaveOnOutOfMemory(last)]
    if cfg.model.get("compile"):
        callbacks.append(CompileFirst(sizes(data)["input_shape"], cfg.model.compile))
    with_data, with_step = has_loader(data, "val"), has_step(module, "validation_step")
    without = no_validation(cfg, with_data, with_step)
    check_plan_monitors({"scheduler": batches.schedule.monitors, "batch": batches.strategy.monitors}, declared_metrics(module), without)
    chosen = _chosen_callbacks(cfg)
    if not without:
        chosen = without_task_metric(cfg, chosen, declared_metrics(module))
    callbacks += [callback for _, callback in with_their_metrics(chosen, declared_metrics(module), without)]
    trainer: pl.Trainer = build(
        cfg,
        "trainer",
        accelerator=accelerator,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=any("ProgressBar" in type(callback).__name__ for callback in callbacks),
        enable_checkpointing=any("Checkpoint" in type(callback).__name__ for callback in callbacks),
        use_distributed_sampler=False,
        **connection(cfg),
        **({} if with_data and with_step else {"limit_val_batches": 0}),  # otherwise Lightning warns about what is missing
        **({} if cfg.trainer.get("profiler") is not None else {"profiler": NoProfiler()}),
    )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # neither one of the user's own nor one that the strategy needs
        trainer.strategy.checkpoint_io = SafeCheckpointIO()
    return trainer


def _chosen_callbacks(cfg: DictConfig) -> dict[str, pl.Callback]:
    """The callbacks of the config, by their keys; there is no progress bar in a log file."""
    chosen = {key: _callback(cfg, key) for key in (*(f"callbacks.{name}" for name in cfg.callbacks), *ADDED)}
    quiet = in_sweep() or not sys.stderr.isatty()
    left_out = [key for key, callback in chosen.items() if callback is None or (quiet and key == "callbacks.progress_bar")]
    return {key: callback for key, callback in chosen.items() if key not in left_out}


def _callback(cfg: DictConfig, key: str) -> Any:
    """The callback that a key describes; None for null, and for the option `none` of a group.

    Raises:
        ConfigError: there is no description, or the class refuses a value, or the installed Lightning does not have it.
    """
    node = OmegaConf.select(cfg, key)
    if node is None or (key in ADDED and not node):
        return None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ConfigError(key, node, "must be a callback", f"give {key}._target_ and its arguments")
    name = str(node.get("_target_")).rpartition("pytorch_lightning.callbacks.")[2]
    if key in ADDED and name.isidentifier() and not hasattr(pl.callbacks, name):
        problem = f"needs a Lightning that has {name}; this is {version('pytorch-lightning')}"
        raise ConfigError(key, options()[key], problem, "install 2.6 or later")
    return build(cfg, key)


def choices_of_run(cfg: DictConfig, data: pl.LightningDataModule) -> dict[str, Any]:
    """The choices that a resumed run must not change: what is trained, the data and the optimizer, but not how they are computed."""
    free = {"data": free_on_resume(data), "optimizer": OptimizerFactory.free_on_resume}
    if cfg.module.get("_target_") is None:
        free |= {"model": FREE_ON_RESUME, "task": frozenset(MONITORED)}
    else:
        free |= {"module": frozenset()}
    choices: dict[str, Any] = {"seed": cfg.seed, "micro_batch_weight": cfg.micro_batch_weight}
    for group, keys in free.items():
        choices |= {f"{group}.{key}": value for key, value in as_plain(cfg[group]).items() if key not in keys and key != "_partial_"}
    if cfg.averaging:  # a checkpoint has the average in place of the weights, so that without averaging the run would go on with that
        choices["averaging"] = options()["averaging"]
        choices |= {f"averaging.{key}": value for key, value in as_plain(cfg.averaging).items() if key != "_target_"}
    if choices.get("data.seed") == cfg.seed:
        del choices["data.seed"]  # it is the same choice as `seed`, which is the name that the user knows
    return choices


@cache
def quiet_lightning() -> None:
    """Show our own messages, each in one line, and drop Lightning's tips and those of its warnings that do not apply here."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    log.addFilter(is_ours)
    handler = logging.StreamHandler()
    handler.setFormatter(_InOurSpelling())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*exists and is not empty.*",
        ".*smaller than the logging interval.*",
        ".*dirpath has changed.*",
        ".*GPU available but not used.*",  # trainer=cpu says so
    ):
        warnings.filterwarnings("ignore", message=message)
    of_python, package = warnings.formatwarning, str(Path(noisescale.__file__).parent)

    def formatwarning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        return f"note: {as_typed(str(message))}\n" if filename.startswith(package) else of_python(message, category, filename, lineno, line)

    warnings.formatwarning = formatwarning


class _InOurSpelling(logging.Formatter):
    """Lines of the library's log, as warnings have them."""

    def format(self, record: logging.LogRecord) -> str:
        return as_typed(super().format(record))

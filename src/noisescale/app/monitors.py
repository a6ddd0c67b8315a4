"""Callbacks that go by a metric (`monitor`): a metric that there will not be is refused before training, or in one line where it shows."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor

from noisescale.app.config import overrides
from noisescale.app.launchers.ranks import is_first
from noisescale.errors import ConfigError
from noisescale.execution.compatibility import untyped
from noisescale.execution.lean import LeanCallback
from noisescale.plans.adaptive import GRADIENT_NOISE_SCALE

__all__ = [
    "TypedPatience",
    "check_plan_monitors",
    "declared_metrics",
    "missing_metric",
    "no_validation",
    "with_their_metrics",
    "without_task_metric",
]


def with_their_metrics(
    callbacks: Mapping[str, pl.Callback], metrics: tuple[str, ...] | None, without_validation: str
) -> Iterator[tuple[str, pl.Callback]]:
    """The callbacks whose metric there will be, with their keys. The template's own `callbacks.best` is left out with a line that says so.

    Args:
        callbacks: key, such as `callbacks.best` -> callback.
        metrics: the metrics that the module logs in training and validation; None if that is not known.
        without_validation: why there is no validation; empty if there is.

    Raises:
        ConfigError: the metric of a callback does not exist, or is one of validation, which there is not.
    """
    known = None if metrics is None or any(map(_may_log, callbacks.values())) else metrics
    for key, callback in callbacks.items():
        metric = _monitor(callback)
        if metric is None or (isinstance(callback, Checkpoint) and metric in ("epoch", "step")):
            yield key, callback
        elif without_validation and metric.startswith("val"):
            if key != "callbacks.best":
                raise _refused(key, metric, f"there is no validation, because {without_validation}", known, validated=False)
            if is_first():
                print(f"note: no best checkpoint, because {without_validation}", file=sys.stderr)
        elif known is not None and metric not in known:
            raise _refused(key, metric, "there is no such metric", known, validated=not without_validation)
        else:
            yield key, callback


def check_plan_monitors(monitors: Mapping[str, Collection[str]], metrics: tuple[str, ...] | None, without_validation: str) -> None:
    """Refuse a schedule or a batch that goes by a metric of validation that there will not be.

    Args:
        monitors: group, scheduler or batch -> the names that it goes by.
        metrics, without_validation: as in `with_their_metrics`.

    Raises:
        ConfigError: the first such metric.
    """
    for group, names in monitors.items():
        for metric in sorted(name for name in names if not name.startswith(GRADIENT_NOISE_SCALE)):
            if without_validation:
                raise _refused(group, metric, f"there is no validation, because {without_validation}", (), validated=False)
            if not metric.startswith("val"):
                raise _refused(group, metric, "is not a metric of validation", metrics, validated=True)
            if metrics is not None and metric not in metrics:
                raise _refused(group, metric, "there is no such metric", metrics, validated=True)


def declared_metrics(module: pl.LightningModule) -> tuple[str, ...] | None:
    """`metric_names` of a module: the names that it logs in training and validation. None where a module does not have it."""
    names: Any = getattr(module, "metric_names", None)
    return tuple(names) if isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names) else None


def without_task_metric(cfg: DictConfig, callbacks: Mapping[str, pl.Callback], metrics: tuple[str, ...] | None) -> dict[str, pl.Callback]:
    """The callbacks without the template's own `callbacks.best`, if that goes by the metric of a task that is not trained, with a line.

    Args:
        cfg: the composed config; with a module of the user's own, its task is not trained.
        callbacks: key, such as `callbacks.best` -> callback.
        metrics: the metrics that the module logs; None if that is not known.
    """
    best, key = callbacks.get("callbacks.best"), "callbacks.best.monitor"
    typed = any(word.lstrip("+").startswith(f"{key}=") for word in overrides())
    if best is None or cfg.module.get("_target_") is None or typed:
        return dict(callbacks)
    if _monitor(best) != cfg.task.monitor or cfg.task.monitor in (metrics or ()):
        return dict(callbacks)
    if is_first():
        remedy = f"set {key}=... and callbacks.best.mode=min or max"
        reason = "the module's metric is not known" if metrics is None else f"the module does not log {cfg.task.monitor}"
        print(f"note: no best checkpoint: {reason}; {remedy}", file=sys.stderr)
    return {name: callback for name, callback in callbacks.items() if callback is not best}


def no_validation(cfg: DictConfig, has_data: bool, has_step: bool = True) -> str:
    """Why a run has no validation, as a clause; empty if it has.

    Args:
        cfg: the composed config.
        has_data: whether there are data to validate on.
        has_step: whether the module has a `validation_step`.
    """
    if not has_step:
        return "the module has no validation_step"
    every = cfg.trainer.get("check_val_every_n_epoch")
    if not has_data:
        return "data.val_fraction=0 keeps no examples for it" if cfg.data.get("val_fraction") == 0 else "the data have none for it"
    if cfg.trainer.get("limit_val_batches") == 0:
        return "trainer.limit_val_batches=0"
    return f"trainer.check_val_every_n_epoch={every} is more than epochs={cfg.epochs}" if every is not None and every > cfg.epochs else ""


def missing_metric(error: Exception, cfg: DictConfig, trainer: pl.Trainer) -> ConfigError | None:
    """The error of a callback that did not find its metric after an epoch, in terms of the config's keys; None for any other error."""
    found = tuple(sorted(trainer.callback_metrics))
    for metric in filter(None, map(_monitor, untyped(trainer).callbacks)):
        quoted = f"'{metric}'" in str(error) or f"`{metric}`" in str(error)
        if metric not in found and quoted and isinstance(error, (KeyError, RuntimeError, MisconfigurationException)):
            return _refused(_key_of(cfg, metric), metric, "there is no such metric", found, validated=True)
    return None


class TypedPatience(LeanCallback):
    """Early stopping has the patience that was typed: a checkpoint brings its own, and Lightning would silently go by that."""

    def __init__(self) -> None:
        self._typed: dict[EarlyStopping, int] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._typed = {callback: callback.patience for callback in untyped(trainer).callbacks if isinstance(callback, EarlyStopping)}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set it, and train nothing more if the run of the checkpoint had been stopped: Lightning would train one more epoch."""
        for callback, patience in self._typed.items():
            more, callback.patience = patience > callback.patience, patience
            if callback.stopping_reason_message and not more:
                untyped(trainer).should_stop = True


def _monitor(callback: pl.Callback) -> str | None:
    metric = getattr(callback, "monitor", None)
    return metric if isinstance(metric, str) else None


def _may_log(callback: pl.Callback) -> bool:
    """Whether a callback may log metrics of its own, so that those of the module are not all."""
    own = type(callback).__module__.partition(".")[0] in ("noisescale", "pytorch_lightning", "lightning")
    return not own or isinstance(callback, LearningRateMonitor)


def _key_of(cfg: DictConfig, metric: str) -> str:
    """The key of the callback with this monitor."""
    # Early stopping first, because `callbacks.best` is left out of a run that does not have its metric.
    nodes = {"early_stopping": cfg.early_stopping} | {f"callbacks.{name}": node for name, node in cfg.callbacks.items()}
    return next((key for key, node in nodes.items() if isinstance(node, DictConfig) and node.get("monitor") == metric), "callbacks")


def _refused(key: str, metric: str, problem: str, known: tuple[str, ...] | None, validated: bool) -> ConfigError:
    there = sorted(name for name in known or () if validated or not name.startswith("val"))
    return ConfigError(f"{key}.monitor", metric, problem, f"there are {', '.join(there)}" if there else "")

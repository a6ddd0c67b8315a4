"""The loggers of a run: open them, give them the choices of the run and its final metrics, and close them, whatever becomes of the run."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from noisescale.app.choices import hyperparameters
from noisescale.app.config import build, refusal
from noisescale.app.faults import RunFailed, failure_of
from noisescale.app.own import needed, parameters_of
from noisescale.app.targets import BASES, checked
from noisescale.errors import ConfigError, check_count

__all__ = ["RunLoggers", "check_loggers"]

_EXTRAS = ("wandb", "mlflow")
"""Loggers whose package is an extra of the same name."""


def check_loggers(cfg: DictConfig) -> None:
    """Raise `ConfigError` for a logger whose class is not named, cannot be found, or lacks an argument. Opens none."""
    for key, node in _nodes(cfg).items():
        name = key.rpartition(".")[2]
        if name in _EXTRAS and find_spec(name) is None:
            raise ConfigError("logger", name, f"needs the package {name}", f'pip install "noisescale[{name}]"')
        make = checked(f"{key}._target_", node._target_, BASES["logger"])
        if "max_queue" in node and name == "tensorboard":
            check_count(f"{key}.max_queue", node.max_queue, unit="events")
        for lacking in (each for each in needed(parameters_of(make)) if each not in node and "_args_" not in node):
            name = str(node._target_).rpartition(".")[2]
            raise ConfigError(f"{key}._target_", node._target_, f"{name} needs {lacking}", f"add +{key}.{lacking}=...")


class RunLoggers:
    """A context: the loggers that a config describes, for the time of one run.

    They are opened last of all, so that nothing that is refused leaves an open one behind, and closed before the next run of a sweep
    begins: W&B and others would log that run into the one that is still open.

    Args:
        cfg: the composed config.
        trainer: the trainer of the run, built without loggers; it gets them.

    Raises:
        ConfigError: on entering, if a logger cannot be built or opened.
    """

    def __init__(self, cfg: DictConfig, trainer: pl.Trainer) -> None:
        self._cfg, self._trainer = cfg, trainer
        self._opened: dict[str, Logger] = {}
        self._parameters = hyperparameters(cfg)
        self._succeeded = False

    def __enter__(self) -> RunLoggers:
        try:
            for key, node in _nodes(self._cfg).items():
                logger = _built(self._cfg, key, node)
                _open(self._cfg, key, logger)
                self._opened[key] = logger
                logger.log_hyperparams(dict(self._parameters))
                logger.save()
        except BaseException:
            self._close()
            raise
        self._trainer.loggers = list(self._opened.values())
        return self

    def report(self, metrics: Mapping[str, float], updates: int, succeeded: bool) -> None:
        """Log the final metrics: on TensorBoard's hparams page as hp/..., in any other logger as final/...

        A logger that fails does not take the results with it.

        Args:
            metrics: tag -> value; those that are nan or inf are left out.
            updates: number of updates of the run, a metric of its own.
            succeeded: whether the run went as it should; otherwise it is closed as failed.
        """
        self._succeeded = succeeded
        finals = {name: value for name, value in metrics.items() if math.isfinite(value)} | {"updates": float(updates)}
        for key, logger in self._opened.items():
            try:
                if isinstance(logger, TensorBoardLogger):
                    logger.log_hyperparams(dict(self._parameters), {f"hp/{name}": value for name, value in finals.items()})
                else:
                    logger.log_metrics({f"final/{name}": value for name, value in finals.items()}, step=updates)
                logger.save()
            except Exception as error:
                print(f"note: {key} could not log the results: {' '.join(str(error).split())}", file=sys.stderr)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close(failed=isinstance(error, RunFailed))

    def _close(self, failed: bool = False) -> None:
        """Close all of them, even if one fails: the results of the run are on disk, and the next run of a sweep needs a clean start.

        Args:
            failed: the run has an error of the machine, which is reported; that it also keeps a logger from closing needs no line.
        """
        for key, logger in self._opened.items():
            try:
                logger.finalize("success" if self._succeeded else "failed")
                _end(logger, self._succeeded)
            except Exception as error:
                if failed and failure_of(error) is not None:
                    continue
                print(f"note: {key} could not be closed: {' '.join(str(error).split())}", file=sys.stderr)


def _nodes(cfg: DictConfig) -> dict[str, DictConfig]:
    """`logger.csv` -> its keys, for each logger; `logger` -> the keys of one that is described in the group itself. null switches one off.

    Raises:
        ConfigError: a key belongs to no logger.
    """
    named = {
        str(name): value for name, value in cfg.logger.items_ex(resolve=False) if isinstance(value, DictConfig) and "_target_" in value
    }
    if OmegaConf.is_missing(cfg.logger, "_target_"):
        example = "logger._target_=pytorch_lightning.loggers.CSVLogger +logger.save_dir=outputs/mine"
        raise ConfigError("logger", "other", "needs the class of the logger", f"for example {example}")
    rest = [name for name in cfg.logger if name not in named and not (cfg.logger._get_node(name)._is_none())]
    found: dict[str, DictConfig] = {}
    if "_target_" in rest:
        found["logger"] = OmegaConf.masked_copy(cfg.logger, rest)
        found["logger"]._set_parent(cfg)
        found["logger"]._set_key("logger")
    elif rest:
        remedy = f"write logger.{next(iter(named))}.{rest[0]}" if named else "choose logger=tensorboard, or set logger._target_"
        raise ConfigError(f"logger.{rest[0]}", cfg.logger[rest[0]], "does not belong to any logger", remedy)
    return found | {f"logger.{name}": node for name, node in named.items()}


def _built(cfg: DictConfig, key: str, node: DictConfig) -> Logger:
    try:
        logger: Logger = build(cfg, key, node)
    except ConfigError:
        raise
    except Exception as error:
        raise _not_opened(key, error) from error
    return logger


def _open(cfg: DictConfig, key: str, logger: Logger) -> None:
    """Open its run, which Lightning would do only at the first value, so that what is wrong is answered before training."""
    try:
        getattr(logger, "experiment", None)
    except Exception as error:
        raise refusal(cfg, key, error) or _not_opened(key, error) from error


def _not_opened(key: str, error: BaseException) -> ConfigError:
    group, _, name = key.partition(".")
    return ConfigError(group, name or "other", f"cannot be opened: {' '.join(str(error).split())}")


def _end(logger: Logger, succeeded: bool) -> None:
    """End the run in the process: Lightning's `finalize` leaves it open where a tool lets a process go on with it."""
    experiment: Any = getattr(logger, "experiment", None)
    if isinstance(logger, WandbLogger):
        experiment.finish(exit_code=0 if succeeded else 1)
    else:
        for name in ("end", "stop"):  # Comet, Neptune
            if callable(end := getattr(experiment, name, None)):
                end()

"""`weights_from`: a new training that starts from the weights of a checkpoint."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from noisescale.errors import ConfigError
from noisescale.execution.checkpoint_io import SafeCheckpointIO

__all__ = ["load_into", "load_weights"]


def load_weights(cfg: DictConfig, module: pl.LightningModule) -> None:
    """Load the `state_dict` of the checkpoint `weights_from` into the module, unless the run goes on from a checkpoint of its own.

    With averaging, those are the averaged weights. Optimizer, schedule, random numbers and counters start anew.

    Raises:
        ConfigError: the file is not a checkpoint, or not one of such a module.
    """
    path = cfg.get("weights_from")
    if path is not None and cfg.ckpt_path is None:
        load_into(module, "weights_from", path)


def load_into(module: pl.LightningModule, key: str, path: Any) -> dict[str, Any]:
    """Load the `state_dict` of the checkpoint that `key` names into the module; returns the whole checkpoint.

    Raises:
        ConfigError: the file is not a checkpoint, or not one of such a module.
    """
    remedy = "give a .ckpt file of a run with the same model and data"
    try:
        checkpoint = SafeCheckpointIO().load_checkpoint(path, map_location="cpu")
        module.load_state_dict(checkpoint["state_dict"])
    except ConfigError as error:
        raise ConfigError(key, path, error.problem, remedy) from error
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(key, path, f"cannot be loaded ({reason[:200]})", remedy) from error
    return checkpoint

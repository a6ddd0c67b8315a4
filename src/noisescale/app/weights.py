"""`weights_from`: a new training that starts from the weights of a checkpoint."""

from __future__ import annotations

import pytorch_lightning as pl
from omegaconf import DictConfig

from noisescale.errors import ConfigError
from noisescale.execution.checkpoint_io import SafeCheckpointIO

__all__ = ["load_weights"]


def load_weights(cfg: DictConfig, module: pl.LightningModule) -> None:
    """Load the `state_dict` of the checkpoint `weights_from` into the module, unless the run goes on from a checkpoint of its own.

    With averaging, those are the averaged weights. Optimizer, schedule, random numbers and counters start anew.

    Raises:
        ConfigError: the file is not a checkpoint, or not one of such a module.
    """
    path = cfg.get("weights_from")
    if path is None or cfg.ckpt_path is not None:
        return
    remedy = "give a .ckpt file of a run with the same model and data"
    try:
        module.load_state_dict(SafeCheckpointIO().load_checkpoint(path, map_location="cpu")["state_dict"])
    except ConfigError as error:
        raise ConfigError("weights_from", path, error.problem, remedy) from error
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("weights_from", path, f"cannot be loaded ({reason[:200]})", remedy) from error

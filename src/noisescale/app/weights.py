"""`weights_from`: a new training that starts from the weights of a checkpoint."""

from __future__ import annotations

import pickle

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from noisescale.errors import ConfigError

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
        weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(weights)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError("weights_from", path, f"cannot be loaded ({reason[:200]})", remedy) from error

"""Keys of Lightning's Trainer that cannot be added to a config, because something else decides them. Does not import torch."""

from __future__ import annotations

from omegaconf import DictConfig

from noisescale.errors import ConfigError

__all__ = ["check_added_trainer_keys", "instead_of"]

_SET_BY_THE_TEMPLATE = {
    "logger": ("is decided by the group logger", "use logger=csv-only for no logger"),
    "callbacks": ("is decided by the group callbacks", "add one with +callbacks.NAME._target_=..."),
    "enable_checkpointing": ("is decided by the callbacks", "use callbacks=light for no checkpoints"),
    "enable_progress_bar": ("is decided by the callbacks", "set callbacks.progress_bar=null for none"),
    "use_distributed_sampler": ("is decided by the plan, which draws the examples of each device", ""),
}
_REFUSED_WITH_A_PLAN = {"overfit_batches": ("would cut a planned epoch", "train on a subset of the examples: data.subset_size=50")}


def instead_of(key: str) -> str:
    """What is wrong with a key of the Trainer that must not be added, and what to do instead; empty for any other key."""
    problem, remedy = (_SET_BY_THE_TEMPLATE | _REFUSED_WITH_A_PLAN).get(key, ("", ""))
    return f"{problem}; {remedy}" if remedy else problem


def check_added_trainer_keys(cfg: DictConfig) -> None:
    """Raise `ConfigError` for a key that the template sets itself: what the user adds would be ignored."""
    for key in _SET_BY_THE_TEMPLATE:
        if key in cfg.trainer:
            raise ConfigError(f"trainer.{key}", cfg.trainer[key], *_SET_BY_THE_TEMPLATE[key])

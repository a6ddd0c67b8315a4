"""The choices that distinguish one run from another, for results.json, for the loggers, and for the lines and the table of a sweep."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from noisescale.app.config import as_plain, overrides
from noisescale.app.own import replaced_groups

__all__ = ["choices", "hyperparameters", "overrides"]

_NO_CHOICE = ("callbacks", "logger", "output_dir", "full_error", "ckpt_path", "resume")


def key_of(override: str) -> str:
    """The key of an override: `optimizer.lr` of `+optimizer.lr=0.1`."""
    return override.partition("=")[0].lstrip("+~")


def choices(cfg: DictConfig) -> dict[str, Any]:
    """The option of each group, then the value of every key that was typed; a group with a list of options has the list.

    Without the groups that a module of the user's own replaces.
    """
    replaced = replaced_groups(cfg)
    options = {str(group): option for group, option in HydraConfig.get().runtime.choices.items()}
    names = [*map(str, cfg), *(group for group in options if group not in cfg and not group.startswith("hydra/"))]
    found: dict[str, Any] = {name: options[name] for name in names if name in options and name not in replaced}
    for key in map(key_of, overrides()):
        if key not in found and key not in replaced and not key.startswith("hydra"):
            value = OmegaConf.select(cfg, key)
            several = isinstance(value, DictConfig) and "." not in key  # Hydra does not list the options of `logger=[tensorboard,csv]`
            found[key] = list(map(str, value)) if several else _plain(value)
    return found


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """Everything that makes the run what it is: the keys of the config, and the option of each group as `<group>/option`."""
    left_out = (*_NO_CHOICE, *replaced_groups(cfg))
    parameters = {key: value for key, value in as_plain(cfg).items() if key not in left_out}
    parameters["trainer"] = {key: value for key, value in parameters["trainer"].items() if key != "default_root_dir"}
    options = HydraConfig.get().runtime.choices
    return parameters | {f"{group}/option": str(options[group]) for group in options if group in parameters}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

"""Access to a composed config: what was chosen, where the run leaves its files, and the objects that its groups describe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from noisescale.errors import ConfigError

__all__ = ["as_plain", "build", "errors_under", "in_sweep", "options", "output_dir", "refusal", "typed"]


def build(cfg: DictConfig, group: str, **arguments: Any) -> Any:
    """The object that a config group describes.

    Args:
        cfg: the whole config.
        group: its name, `scheduler`.
        arguments: what only Python knows, given to the target beside its keys.

    Raises:
        ConfigError: the object refuses a value; its key has the group's name in front.
    """
    try:
        return instantiate(cfg[group], **arguments)
    except InstantiationException as error:
        refused = refusal(cfg, group, error.__cause__)
        if refused is None:
            raise
        raise refused from error


def refusal(cfg: DictConfig, group: str, cause: BaseException | None) -> ConfigError | None:
    """What the object of a config group refuses, in the words of the config; None where it is a fault of the code.

    Args:
        cfg: the whole config.
        group: its name, `scheduler`.
        cause: what was raised.
    """
    if isinstance(cause, ConfigError):
        return cause.under(group)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if isinstance(cause, TypeError) and unknown is not None:
        key, option = unknown.group(1), _option(group)
        problem = f"is not a key of {group}={option}; an experiment or debug option that sets it is for another {group}"
        return ConfigError(f"{group}.{key}", cfg[group].get(key), problem)
    lightnings = type(cause).__name__ == "MisconfigurationException"
    if cause is not None and (lightnings or isinstance(cause, (TypeError, ValueError, OSError))):
        return ConfigError(group, _option(group), " ".join(str(cause).split()))
    return None


@contextmanager
def errors_under(group: str) -> Iterator[None]:
    """Put the group's name in front of the key of a `ConfigError` raised inside."""
    try:
        yield
    except ConfigError as error:
        raise error.under(group) from error


def as_plain(cfg: DictConfig) -> dict[str, Any]:
    """The config with its references resolved, as plain containers."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def in_sweep() -> bool:
    """Whether this is one run of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def options() -> dict[str, str]:
    """The option chosen in each config group."""
    return {str(group): str(name) for group, name in HydraConfig.get().runtime.choices.items()}


def output_dir() -> Path:
    """Where this run leaves its files."""
    return Path(HydraConfig.get().runtime.output_dir)


def typed() -> str:
    """What the user typed after the name of the command."""
    return " ".join(HydraConfig.get().overrides.task)


def _option(group: str) -> str:
    return options().get(group, "") if HydraConfig.initialized() else ""

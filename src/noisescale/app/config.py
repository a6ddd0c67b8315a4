"""Access to a composed config: the options chosen, the folder for the files of the run, and the objects that the groups describe."""

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

from noisescale.app.own_words import words_as_typed
from noisescale.errors import ConfigError

__all__ = ["as_plain", "build", "errors_under", "in_sweep", "options", "output_dir", "overrides", "refusal", "typed"]


def build(cfg: DictConfig, group: str, **arguments: Any) -> Any:
    """The object that a config group describes.

    Args:
        cfg: the whole config.
        group: the name of the group, for example `scheduler`.
        arguments: further arguments for the target, for what is known only at run time.

    Raises:
        ConfigError: the object refuses a value; the key of the error starts with the name of the group.
    """
    try:
        return instantiate(cfg[group], **arguments)
    except InstantiationException as error:
        refused = refusal(cfg, group, error.__cause__)
        if refused is None:
            raise
        raise refused from error


def refusal(cfg: DictConfig, group: str, cause: BaseException | None) -> ConfigError | None:
    """The error of building the object of a config group, in terms of the config's keys; None if it is a bug rather than invalid input.

    Args:
        cfg: the whole config.
        group: the name of the group, for example `scheduler`; `logger.csv` for one of several in a group.
        cause: the exception that was raised.
    """
    if isinstance(cause, ConfigError):
        return cause.under(group)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if isinstance(cause, TypeError) and unknown is not None and unknown.group(1) in (OmegaConf.select(cfg, group) or {}):
        key, (name, option) = f"{group}.{unknown.group(1)}", _option(group)
        problem = f"is not a key of {name}={option}; an experiment or debug option that sets it is for another {name}"
        return ConfigError(key, OmegaConf.select(cfg, key), problem)
    from_lightning = type(cause).__name__ == "MisconfigurationException"
    if cause is not None and (from_lightning or isinstance(cause, (TypeError, ValueError, OSError))):
        return ConfigError(*_option(group), " ".join(str(cause).split()))
    return None


@contextmanager
def errors_under(group: str) -> Iterator[None]:
    """Put the name of the group in front of the key of any `ConfigError` raised inside."""
    try:
        yield
    except ConfigError as error:
        raise error.under(group) from error


def as_plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers, with its interpolations resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def in_sweep() -> bool:
    """Whether this is one run of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def options() -> dict[str, str]:
    """The option chosen in each config group."""
    return {str(group): str(name) for group, name in HydraConfig.get().runtime.choices.items()} if HydraConfig.initialized() else {}


def output_dir() -> Path:
    """The folder for the files of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """The words of this run as Hydra has them: `scheduler=step`, `optimizer.lr=0.1`, `++model.width=3` for a class of the user's own."""
    if not HydraConfig.initialized():
        return []
    words = {str(word).partition("=")[0].lstrip("+~"): str(word) for word in HydraConfig.get().overrides.task}
    return list(words.values())  # of a key that was typed again when the run was resumed, the last


def typed() -> list[str]:
    """The words of this run as the user typed them: `model.width=3`."""
    return words_as_typed(overrides())


def _option(group: str) -> tuple[str, str]:
    """The group and the option that was chosen in it: `logger.csv` is one of the options of `logger`."""
    group, _, name = group.partition(".")
    return group, name or options().get(group, "")

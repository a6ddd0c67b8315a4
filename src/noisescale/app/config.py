"""Access to a composed config: the options chosen, the folder for the files of the run, and the objects that the groups describe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from noisescale.app.arguments import checks_itself, misfit
from noisescale.app.own_words import words_as_typed
from noisescale.app.targets import BASES, checked, made, told
from noisescale.errors import ConfigError

__all__ = ["as_plain", "build", "errors_under", "in_sweep", "options", "output_dir", "overrides", "refusal", "typed"]


def build(cfg: DictConfig, key: str, node: DictConfig | None = None, /, **arguments: Any) -> Any:
    """The object that a config group describes.

    Args:
        cfg: the whole config.
        key: the name of the group, for example `scheduler`, or the key of one of several objects in a group, for example `callbacks.last`.
        node: the description, if it is not all that the key has.
        arguments: further arguments for the target, for what is known only at run time.

    Raises:
        ConfigError: `_target_` does not name a class of the group, or the object refuses a value; the key of the error starts with `key`.
    """
    held = OmegaConf.to_container(OmegaConf.select(cfg, key) if node is None else node, resolve=True, throw_on_missing=True)
    assert isinstance(held, dict)
    plain = {str(name): value for name, value in held.items()}
    wrong = None
    try:
        base = BASES[key.partition(".")[0]]
        make = checked("_target_", plain.get("_target_"), base)
        # An option of an optimizer that is null is left to the class.
        wrong = misfit(make, {name: value for name, value in plain.items() if key != "optimizer" or value is not None})
        if wrong is not None and not checks_itself(make):
            raise wrong
        built = made(plain, base, **arguments)
    except ConfigError as error:
        raise _of_what_was_typed(cfg, key, error) from error
    except Exception as error:
        refused = refusal(cfg, key, error) if wrong is None else wrong.under(key)
        if refused is None and not key.startswith("logger") and not checks_itself(make):
            refused = ConfigError(*_option(cfg, key), f"could not be built: {told(error)}", "full_error=true shows where")
        if refused is None:
            raise
        raise refused from error
    if wrong is not None:
        raise wrong.under(key)
    return built


def _of_what_was_typed(cfg: DictConfig, group: str, error: ConfigError) -> ConfigError:
    """The error of a value that nobody typed is one about the value that was typed and that it has to fit."""
    typed_keys = {word.partition("=")[0].lstrip("+~") for word in overrides()}
    found, numbers = error.under(group), re.findall(r"[\w.+-]*\d[\w.+-]*", error.problem)
    if found.key in typed_keys or not error.problem.startswith("must be"):
        return found
    for key in sorted(typed_keys):
        value = OmegaConf.select(cfg, key) if key.startswith(f"{group}.") else None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and str(value) in numbers:
            return ConfigError(key, value, f"does not fit {found.key}={found.value}, which {found.problem}", found.remedy)
    return found


def refusal(cfg: DictConfig, key: str, cause: BaseException | None) -> ConfigError | None:
    """The error of building the object of a config group, in terms of the config's keys; None if it is a bug rather than invalid input.

    Args:
        cfg: the whole config.
        key: as for `build`.
        cause: the exception that was raised.
    """
    if isinstance(cause, ConfigError):
        return cause.under(key)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if isinstance(cause, TypeError) and unknown is not None and unknown.group(1) in (OmegaConf.select(cfg, key) or {}):
        added, (name, option) = f"{key}.{unknown.group(1)}", _option(cfg, key)
        problem = f"is not a key of {name}={option}; an experiment or debug option that sets it is for another {name.partition('.')[0]}"
        return ConfigError(added, OmegaConf.select(cfg, added), problem)
    from_lightning = type(cause).__name__ == "MisconfigurationException"
    if cause is not None and (from_lightning or isinstance(cause, (TypeError, ValueError, OSError))):
        return ConfigError(*_option(cfg, key), " ".join(str(cause).split()))
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
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # a word may hold ${...}
    words = {str(word).partition("=")[0].lstrip("+~"): str(word) for word in given}
    return list(words.values())  # of a key that was typed again when the run was resumed, the last


def typed() -> list[str]:
    """The words of this run as the user typed them: `model.width=3`."""
    return words_as_typed(overrides())


def _option(cfg: DictConfig, key: str) -> tuple[str, str]:
    """What chose an object: the group and its option, as `logger=csv` for `logger.csv`; the class of `callbacks.last`."""
    group, _, name = key.partition(".")
    if group == "callbacks" and name:
        return f"{key}._target_", str(OmegaConf.select(cfg, f"{key}._target_"))
    return group, name or options().get(group, "")

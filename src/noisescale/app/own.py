"""Build what the user may replace with a class of their own, and say in one line what such a class lacks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig

from noisescale.app.config import as_plain, errors_under, options, overrides
from noisescale.app.targets import BASES, checked, locate, made, other_package, said, told
from noisescale.errors import ConfigError
from noisescale.plans.dataset_size import check_stand_in_size

__all__ = [
    "build_own",
    "is_ours",
    "makes_own_optimizer",
    "name_of",
    "needed",
    "parameters_of",
    "refuse_words_without_effect",
    "replaced_groups",
    "stand_in_size",
]


def name_of(cfg: DictConfig, group: str) -> str:
    """What the user typed to choose the class of a group: `model=mine`, or `model._target_=my_module.MyNet`."""
    option = options().get(group, "")
    return f"{group}._target_={cfg[group].get('_target_')}" if option in ("own", "none", "") else f"{group}={option}"


def is_ours(cfg: DictConfig, group: str) -> bool:
    """Whether the class of a group is one of this package."""
    return str(cfg[group].get("_target_")).startswith("noisescale.")


def parameters_of(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function by name; empty if Python does not know them."""
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}


def build_own(
    cfg: DictConfig,
    group: str,
    base: type[Any],
    *,
    left_out: Collection[str] = (),
    required: Mapping[str, Any] | None = None,
    **offered: Any,
) -> Any:
    """An object of the class that a config group names, which may be the user's own.

    Args:
        cfg: the whole config.
        group: the group, such as `model`.
        base: the class that the object must be of.
        left_out: keys of the group that are for the template, unless the class has a parameter of that name.
        required: arguments that the class must take.
        offered: further arguments for those parameters of the class that have the same names, unless the config gives them.

    Raises:
        ConfigError: the class cannot be found, is not of the right kind, does not take a key, needs one that is not there, or refuses.
    """
    target = cfg[group].get("_target_")
    make = checked(f"{group}._target_", target, BASES[group])
    keys, given = _arguments(cfg, group, make, left_out, required or {}, offered)
    key, _, typed = name_of(cfg, group).partition("=")
    try:
        built = made({"_target_": target, **keys}, BASES[group], **given)
    except ConfigError as error:
        raise _of_the_data(cfg, group, error, given) from error
    except (TypeError, ValueError, RuntimeError, AttributeError, OSError, LookupError, AssertionError, ArithmeticError) as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is not None and found[1] in keys:
            raise _not_an_argument(cfg, group, found[1], make) from error
        raise ConfigError(key, typed, f"{_name(make)} could not be built: {told(error)}", "full_error=true shows where") from error
    if not isinstance(built, base):
        problem = f"returns a value of type {type(built).__name__}, which is not a {said(base)}{other_package(type(built), base)}"
        raise ConfigError(key, typed, problem)
    return built


def _arguments(
    cfg: DictConfig,
    group: str,
    make: Callable[..., Any],
    left_out: Collection[str],
    required: Mapping[str, Any],
    offered: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(keys of the config, what the template gives): together every argument that `make` needs, and none that it does not take."""
    parameters = parameters_of(make)
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    keys = {k: v for k, v in as_plain(cfg[group]).items() if not k.startswith("_") and (k in parameters or k not in left_out)}
    given = {**required, **{k: v for k, v in offered.items() if k in parameters and k not in keys}}
    key, _, typed = name_of(cfg, group).partition("=")
    for mark in (mark for mark in ("_args_", "_partial_") if mark in cfg[group]):
        raise ConfigError(f"{group}.{mark}", cfg[group][mark], "is not used here", f"give each argument by its name, {group}.NAME=...")
    if not takes_all:
        for lacking in (each for each in required if each not in parameters):
            raise ConfigError(key, typed, f"{_name(make)} must take the argument {lacking}")
        for unknown in (each for each in keys if each not in parameters):
            raise _not_an_argument(cfg, group, unknown, make)
    for lacking in (each for each in needed(parameters) if each not in keys and each not in given):
        raise ConfigError(key, typed, f"{_name(make)} needs the argument {lacking}", _remedy(cfg, group, lacking))
    return keys, given


def needed(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """The parameters that have no default."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters.values() if each.default is each.empty and each.kind not in several]


def _remedy(cfg: DictConfig, group: str, parameter: str) -> str:
    if parameter not in ("input_shape", "num_outputs"):
        return f"set {group}.{parameter}"
    return f"let the setup of the DataModule, {name_of(cfg, 'data')}, set self.{parameter}"


def _not_an_argument(cfg: DictConfig, group: str, key: str, make: Callable[..., Any]) -> ConfigError:
    """The error for a key that the class does not take."""
    value = as_plain(cfg[group])[key]
    if is_ours(cfg, group):
        problem = f"is not a key of {group}={options().get(group, '')}; an experiment or debug option that sets it is for another {group}"
        return ConfigError(f"{group}.{key}", value, problem)
    parameters = parameters_of(make)
    close = get_close_matches(key, parameters, n=1, cutoff=0.8)
    suggestion = f", did you mean {close[0]}?" if close else ""
    problem = f"is not an argument of {_name(make)}{suggestion}"
    return ConfigError(f"{group}.{key}", value, problem, f"its arguments: {', '.join(parameters) or 'none'}")


def _of_the_data(cfg: DictConfig, group: str, error: ConfigError, given: Mapping[str, Any]) -> ConfigError:
    """An error about an argument that the data gave is one about the choice of the class, because nobody typed that key."""
    if error.key not in given:
        return error.under(group)
    words = f"{error.key}={error.value}, which data={options().get('data', '')} gives, {error.problem}"
    key, _, value = name_of(cfg, group).partition("=")
    return ConfigError(key, value, words, error.remedy)


def _name(make: Callable[..., Any]) -> str:
    return getattr(make, "__name__", str(make))


# -- a module of one's own ----------------------------------------------------------------------------------------------------


def makes_own_optimizer(cfg: DictConfig) -> bool:
    """Whether there is a module of the user's own that does not take the optimizer of the config. Imports that module."""
    if cfg.module.get("_target_") is None:
        return False
    return "optimizer" not in parameters_of(locate("module._target_", cfg.module._target_))


def replaced_groups(cfg: DictConfig) -> tuple[str, ...]:
    """The groups that have no effect, because a module of the user's own is trained in their place."""
    if cfg.module.get("_target_") is None:
        return ()
    return ("task", "model", "optimizer") if makes_own_optimizer(cfg) else ("task", "model")


def refuse_words_without_effect(cfg: DictConfig) -> None:
    """Refuse words that a module of the user's own makes useless: those about `task` and `model`, and `optimizer` if it does not take one.

    Raises:
        ConfigError: the first such word.
    """
    if cfg.module.get("_target_") is None:
        keys = [str(key) for key in cfg.module if key != "_target_"]
        if keys or options().get("module", "none") != "none":
            key = keys[0] if keys else "_target_"
            raise ConfigError(f"module.{key}", cfg.module[key], "has no effect without a class", "set module._target_")
        return
    useless = {"task": "brings its own loss", "model": "brings its own network"}
    if makes_own_optimizer(cfg):
        useless["optimizer"] = "makes its own optimizer; give its constructor a parameter `optimizer`, and return optimizer(self)"
    for word in overrides():
        key, _, value = word.lstrip("+~").partition("=")
        why = useless.get(key.partition(".")[0])
        if why is not None:
            raise ConfigError(key, value, f"has no effect: {name_of(cfg, 'module')} {why}")


# -- data of one's own --------------------------------------------------------------------------------------------------------


def stand_in_size(cfg: DictConfig) -> int | None:
    """N to plan with in place of the data: `data.size`, unless the class of the data has a parameter `size` of its own.

    Raises:
        ConfigError: it is not a count.
    """
    size = cfg.data.get("size")
    if size is None or (not is_ours(cfg, "data") and "size" in parameters_of(locate("data._target_", cfg.data._target_))):
        return None
    with errors_under("data"):
        check_stand_in_size(size, cfg.data.get("subset_size"))
    return int(size)

"""What a config may name: each dotted name is resolved and checked to be of the kind that its place needs, before anything is called.

`_target_` in a config could otherwise call anything that Python can import, such as os.system. In a group it must be a class derived from
the base class of that group, and in the value of an argument one from those of `PARTS`. A user's own classes pass as they are. To find out
what a name is, its module must be imported, which executes it: a config is code, see SECURITY.md.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import sysconfig
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from noisescale.errors import ConfigError

__all__ = ["BASES", "check_nested", "checked", "is_users", "locate", "made", "other_package", "told"]

BASES: Mapping[str, str] = {
    "task": "pytorch_lightning.LightningModule",
    "model": "torch.nn.Module",
    "module": "pytorch_lightning.LightningModule",
    "data": "pytorch_lightning.LightningDataModule",
    "optimizer": "torch.optim.Optimizer",
    "scheduler": "noisescale.schedules.Schedule",
    "warmup": "noisescale.schedules.Warmup",
    "batch": "noisescale.plans.BatchStrategy",
    "trainer": "pytorch_lightning.Trainer",
    "callbacks": "pytorch_lightning.Callback",
    "early_stopping": "pytorch_lightning.Callback",
    "averaging": "pytorch_lightning.Callback",
    "logger": "pytorch_lightning.loggers.Logger",
}
"""The class from which the objects of a group are derived."""

HYDRAS = "hydra.experimental.callback.Callback"
"""The class from which Hydra's own callbacks are derived, those of `hydra.callbacks`."""

PARTS = (
    "noisescale.schedules.Schedule",
    "noisescale.plans.BatchStrategy",
    "torch.nn.Module",
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "torch.utils.data.Dataset",
    "torch.utils.data.Sampler",
    "pytorch_lightning.Callback",
    "pytorch_lightning.loggers.Logger",
    "pytorch_lightning.strategies.Strategy",
    "pytorch_lightning.accelerators.Accelerator",
    "pytorch_lightning.profilers.Profiler",
    "pytorch_lightning.plugins.Precision",
    "pytorch_lightning.plugins.LayerSync",
    "pytorch_lightning.plugins.CheckpointIO",
    "pytorch_lightning.plugins.environments.ClusterEnvironment",
    "datetime.timedelta",
)
"""The classes from which the value of an argument may be derived, if it is described by a `_target_`."""

_TRANSFORMS = "torchvision.transforms."
_MARKS = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_convert_"})
"""Keys that are for whoever makes the object, not for its class."""


def locate(key: str, target: Any) -> Any:
    """The class or function with a dotted name.

    Raises:
        ConfigError: there is none, or its module cannot be imported; the error says why.
    """
    first, *names = target.split(".") if isinstance(target, str) else ("",)
    if not names or not all((first, *names)):
        raise ConfigError(key, target, "must be the dotted name of a class", "for example my_module.MyClass")
    found, path = _import(key, target, first), first
    for name in names:
        parent, path = path, f"{path}.{name}"
        try:
            inner = getattr(found, name, None)
        except Exception as error:  # of a package that imports its parts when they are asked for
            raise ConfigError(key, target, f"{path} cannot be imported: {told(error)}") from error
        if inner is None and hasattr(found, "__path__"):
            inner = _import(key, target, path)
        if inner is None:
            close = get_close_matches(name, _names_in(found), n=1)
            raise ConfigError(key, target, f"{parent} has no {name}", f"did you mean {parent}.{close[0]}?" if close else "")
        found = inner
    return found


def checked(key: str, target: Any, *bases: str) -> Callable[..., Any]:
    """The class with a dotted name, derived from one of `bases`; or a function whose annotation says that it returns such an object.

    Args:
        key: the key of the name, such as `model._target_`.
        target: the dotted name, or the class itself.
        bases: dotted names of classes; none: any of `PARTS`, or any class of the user's own.

    Raises:
        ConfigError: it is something else, or there is nothing of that name.
    """
    make = locate(key, target) if not isinstance(target, type) else target
    kind = make if isinstance(make, type) else _returned(make)
    found = [_class(base) for base in bases or PARTS]
    if kind is not None and issubclass(kind, tuple(found)):
        return typing.cast(Callable[..., Any], make)
    if not bases and isinstance(make, type) and (is_users(make) or make.__module__.startswith(_TRANSFORMS)):
        return make
    if isinstance(make, types.FunctionType) and is_users(make):
        name = said(found[0]) if bases else "torch.nn.Module, or what it makes"
        raise ConfigError(key, target, f"is a function that is not annotated with -> {name}", "annotate it, or name a class")
    if not bases:
        problem = "is not a class of torch, Lightning or your own that may be the value of an argument"
        raise ConfigError(key, target, problem, "write a class of your own that makes it")
    raise ConfigError(key, target, f"is not {_article(found[0])}{other_package(make, found[0])}")


def check_nested(node: Any, key: str = "") -> None:
    """Check every `_target_` in the values of a plain description, but not its own; see `checked`.

    Args:
        node: the description.
        key: the key of the description inside the one that an error is about; empty for that one itself.
    """
    for name, value in _items(node):
        inner = f"{key}.{name}" if key else str(name)
        if isinstance(value, Mapping) and "_target_" in value:
            checked(f"{inner}._target_", value["_target_"])
        check_nested(value, inner)


def made(node: Mapping[str, Any], *bases: str, **given: Any) -> Any:
    """The object that a plain description with `_target_` stands for, with everything described inside it.

    All names in it are checked before the first of them is called.

    Args:
        node: `_target_`, the arguments, and `_args_` for arguments without a name; `_partial_: true` makes a function of what is left.
        bases: see `checked`.
        given: further arguments.

    Raises:
        ConfigError: a name is not of the right kind, or a class refuses a value; the key is that inside the description.
        Exception: whatever a class raises.
    """
    make = checked("_target_", node["_target_"], *bases)
    check_nested(node)
    for flag in (flag for flag in ("_partial_", "_recursive_") if not isinstance(node.get(flag, False), bool)):
        raise ConfigError(flag, node[flag], "must be true or false")
    positional = node.get("_args_", [])
    if not isinstance(positional, list):
        raise ConfigError("_args_", positional, "must be a list of arguments")
    values = {name: value for name, value in node.items() if name not in _MARKS}
    if node.get("_recursive_", True):
        positional = _with_objects("_args_", positional)
        values = {name: _with_objects(name, value) for name, value in values.items()}
    values |= given
    return functools.partial(make, *positional, **values) if node.get("_partial_", False) else make(*positional, **values)


def _with_objects(key: str, value: Any) -> Any:
    """A plain value, with an object in place of each description."""
    if isinstance(value, Mapping) and "_target_" in value:
        try:
            return made(value)
        except ConfigError as error:
            raise error.under(key) from error
    if isinstance(value, Mapping):
        return {name: _with_objects(f"{key}.{name}", each) for name, each in value.items()}
    return [_with_objects(f"{key}.{i}", each) for i, each in enumerate(value)] if isinstance(value, list) else value


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)


def is_users(made_of: Any) -> bool:
    """Whether a class or function is the user's own: written in a file outside the standard library and the installed packages."""
    module = sys.modules.get(getattr(made_of, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file is None or module is None or module.__name__.partition(".")[0] == "noisescale":
        return False
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _library_folders())


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def _returned(make: Any) -> type[Any] | None:
    """The class of the object that a function returns, by its annotation; None if it does not say."""
    if not isinstance(make, types.FunctionType):
        return None
    try:
        found = typing.get_type_hints(inspect.unwrap(make)).get("return")
    except Exception:  # an annotation may name anything
        return None
    return found if isinstance(found, type) else None


def _class(name: str) -> type[Any]:
    found = locate("_target_", name)
    assert isinstance(found, type)
    return found


def said(base: type[Any]) -> str:
    """The name of a class for a message."""
    return "torch.nn.Module" if base.__name__ == "Module" else base.__name__


def _article(base: type[Any]) -> str:
    name = said(base)
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def other_package(made_of: Any, base: type[Any]) -> str:
    """A hint, if a class is derived from the one of the same name in the other package of Lightning."""
    names = [each.__module__ for each in getattr(made_of, "__mro__", ()) if each.__name__ == base.__name__]
    return f" of pytorch_lightning, but one of {names[0].partition('.')[0]}" if names and names[0].startswith("lightning") else ""


def told(error: BaseException) -> str:
    """An error in a few words: its class and its message, without the frames that torch adds to it."""
    words = " ".join(str(error).split())
    if too_much := re.search(r"you tried to allocate (\d+) bytes", words):
        return f"not enough memory for {int(too_much[1]) / 1e9:.3g} GB at once"
    return f"{type(error).__name__}: {words.partition(' Exception raised from ')[0]}"


def _names_in(found: Any) -> list[str]:
    """The public names of a module or class, with the modules of a package that are not imported yet."""
    inner = [each.name for each in iter_modules(getattr(found, "__path__", []))]
    return [name for name in (*dir(found), *inner) if not name.startswith("_")]


def _import(key: str, target: str, module: str) -> Any:
    """The module; None if it is a module inside a package, and the package has none of that name."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise ConfigError(key, target, f"importing {module} failed: {error}") from error
        if "." in module:
            return None
        places = "the current folder, the folder of --config-dir, PYTHONPATH and the installed packages were searched"
        raise ConfigError(key, target, f"there is no module {module}", places) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(key, target, f"importing {module} failed: {told(error)}", "full_error=true shows where") from error

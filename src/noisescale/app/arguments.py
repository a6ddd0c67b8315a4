"""Whether the values of a config fit the types that a class declares for its arguments: Lightning often checks neither, or much later."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError

__all__ = ["checks_itself", "misfit"]

_DECLARES = ("noisescale", "pytorch_lightning", "lightning", "lightning_fabric", "torch")
"""Packages whose annotations are kept to. Those of anyone else's code may be only a hint for the reader."""

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    os.PathLike: "a path",
    list: "a list",
    dict: "keys with values",
    type(None): "null",
}


def checks_itself(make: Callable[..., Any]) -> bool:
    """Whether a class checks its own arguments, with the range of each: those of this package do."""
    return make.__module__.partition(".")[0] == "noisescale"


def misfit(make: Callable[..., Any], values: Mapping[str, Any]) -> ConfigError | None:
    """The error of the first value of a type that its argument cannot have, such as a word for a number of steps; None if there is none.

    A value that is an object, or a description of one, is taken to fit; so is any value of an argument whose type cannot be known.
    """
    if make.__module__.partition(".")[0] not in _DECLARES:
        return None
    try:
        types_of = typing.get_type_hints(getattr(make, "__init__") if isinstance(make, type) else make)  # noqa: B009
    except Exception:  # an annotation may name what is imported for type checkers only
        return None
    for name, value in values.items():
        if name in types_of and not _fits(value, types_of[name]):
            return ConfigError(name, value, f"must be {_in_words(types_of[name])}")
    return None


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if wanted is bool or wanted is str or wanted is type(None):
        return isinstance(value, wanted)
    if wanted in (int, float):
        return isinstance(value, (int, wanted)) and not isinstance(value, bool)
    if not isinstance(origin or wanted, type) or wanted is Any:
        return True
    kind = origin or wanted
    if issubclass(kind, os.PathLike):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if issubclass(kind, Iterable):
        return isinstance(value, (list, tuple))
    return isinstance(value, kind) or issubclass(kind, Enum) or bool(getattr(kind, "_is_protocol", False))


def _in_words(wanted: Any) -> str:
    """`a whole number or null`; what cannot be typed as a plain value is left out."""
    words = list(dict.fromkeys(_parts(wanted)))
    choices = list(dict.fromkeys(str(each) for each in _choices(wanted)))
    words += [f"one of {', '.join(choices)}"] if choices else []
    return " or ".join(words) if words else f"an object of {getattr(wanted, '__name__', wanted)}"


def _choices(wanted: Any) -> Iterable[Any]:
    if typing.get_origin(wanted) is typing.Literal:
        yield from typing.get_args(wanted)
    elif typing.get_origin(wanted) in (typing.Union, types.UnionType):
        for each in typing.get_args(wanted):
            yield from _choices(each)


def _parts(wanted: Any) -> Iterable[str]:
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        for each in inner:
            yield from _parts(each)
    elif (kind := origin or wanted) in _WORDS:
        yield _WORDS[kind]
    elif isinstance(kind, type) and issubclass(kind, Mapping):
        yield _WORDS[dict]
    elif isinstance(kind, type) and issubclass(kind, (list, tuple)):
        yield _WORDS[list]

"""Remember the state that some objects can reach, and restore it in place."""

from __future__ import annotations

import dis
import random
import sys
import sysconfig
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cache, partial
from io import IOBase
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

__all__ = ["Snapshot"]

MOST_OBJECTS = 300_000

ATOMS = (type(None), int, float, complex, str, bytes, range, slice, torch.dtype, torch.device, Enum, IOBase, types.BuiltinFunctionType)
ENTERED = (nn.Module, torch.optim.Optimizer, LRScheduler, pl.LightningDataModule, pl.Callback, types.SimpleNamespace)
"""Objects of a library's own classes of which the attributes are remembered; other such objects may belong to a thread or to a server."""


class Snapshot:
    """The state of everything that can be reached from the objects that are added, by attributes, items, references and code.

    The code of a function that is not a library's can reach what is in its closure and the global variables that it names, and the methods
    of a class also the attributes of the class. Remembered are those variables, attributes and containers, tensors, arrays and random
    number generators. Data sets are not entered, nor are files, or objects of libraries other than modules, optimizers,
    schedulers and callbacks.

    Args:
        trainer: the trainer, which the modules know and which is not entered.

    Attributes:
        tensors: the ids of all tensors that were reached.
    """

    def __init__(self, trainer: pl.Trainer | None = None) -> None:
        self._trainer = trainer
        self._seen: dict[int, Any] = {}
        self._undo: list[Callable[[], object]] = []
        self.tensors: set[int] = set()

    def add(self, *roots: Any) -> None:
        """Remember what can be reached from `roots`, apart from what is remembered already.

        Raises:
            RuntimeError: something cannot be remembered: an iterator, or a trainer that code refers to directly.
        """
        waiting = list(roots)
        while waiting:
            each = waiting.pop()
            if isinstance(each, ATOMS) or id(each) in self._seen:
                continue
            if len(self._seen) >= MOST_OBJECTS:
                raise RuntimeError("the module refers to too many objects")
            self._seen[id(each)] = each  # keeps it, so that its id stays its own
            waiting.extend(self._remember(each))

    def restore(self) -> None:
        """Set everything back to what it was when it was added."""
        for undo in reversed(self._undo):
            undo()

    def _remember(self, each: Any) -> Iterable[Any]:
        """Remember the state of one object; returns what it refers to."""
        if isinstance(each, Dataset):
            return ()
        if isinstance(each, DataLoader):
            return [each.generator, getattr(each.sampler, "generator", None)]
        if isinstance(each, pl.Trainer):
            raise RuntimeError("its code refers to a Trainer as a global variable")
        if isinstance(each, type):
            return () if _of_library(each.__module__) else [*self._class(each), *each.__bases__]
        if isinstance(each, types.ModuleType):
            return () if _of_library(each.__name__) else self._dict(vars(each))
        if isinstance(each, types.FunctionType):
            return self._function(each)
        if isinstance(each, weakref.ref):
            return (each(),)
        if isinstance(each, _WRAPPERS):
            return [getattr(each, name, None) for name in _WRAPPED]
        return [*self._contents(each), *self._attributes(each)]

    def _contents(self, each: Any) -> Iterable[Any]:
        if isinstance(each, Tensor):
            self._tensor(each)
        elif isinstance(each, np.ndarray):
            self._undo.append(partial(np.copyto, each, each.copy()))
        elif isinstance(each, torch.Generator):
            self._undo.append(partial(each.set_state, each.get_state()))
        elif isinstance(each, np.random.Generator):
            self._undo.append(partial(setattr, each.bit_generator, "state", each.bit_generator.state))
        elif isinstance(each, np.random.RandomState):
            self._undo.append(partial(each.set_state, each.get_state()))
        elif isinstance(each, random.Random):
            self._undo.append(partial(each.setstate, each.getstate()))
        elif isinstance(each, dict):
            return self._dict(each)
        elif isinstance(each, (list, deque, bytearray)):
            self._undo.append(partial(_refill, each, list(each), each.extend))
            return [] if isinstance(each, bytearray) else list(each)
        elif isinstance(each, set):
            self._undo.append(partial(_refill, each, list(each), each.update))
            return list(each)
        elif isinstance(each, (tuple, frozenset)):
            return each
        elif isinstance(each, Iterator) and _of_library(type(each).__module__):
            raise RuntimeError(f"its code refers to a {type(each).__name__}, which can only move on")
        return ()

    def _attributes(self, each: Any) -> Iterable[Any]:
        kind = type(each)
        if _of_library(kind.__module__) and not isinstance(each, ENTERED) and not kind.__module__.startswith("noisescale."):
            return ()
        values: list[Any] = [kind]
        if isinstance(own := getattr(each, "__dict__", None), dict):
            knows_trainer = isinstance(each, (pl.LightningModule, pl.LightningDataModule))
            values += [value for value in self._dict(own) if not (knows_trainer and value is self._trainer)]
        for name in {name for base in kind.__mro__ for name in _slots(base)}:
            if hasattr(each, name):
                values.append(getattr(each, name))
                self._undo.append(partial(object.__setattr__, each, name, values[-1]))
        return values

    def _dict(self, found: dict[Any, Any]) -> Iterable[Any]:
        items = list(found.items())
        self._undo.append(partial(_reset, found, items))
        return [part for item in items for part in item]

    def _tensor(self, tensor: Tensor) -> None:
        self.tensors.add(id(tensor))
        if tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_inference():
            gradient = tensor.grad if tensor.is_leaf else None
            self._undo.append(partial(_set_back, tensor, tensor.detach().clone(), gradient, tensor.requires_grad))
            if gradient is not None:
                self._tensor(gradient)

    def _class(self, kind: type) -> Iterable[Any]:
        state = {name: value for name, value in vars(kind).items() if not _fixed(name)}
        self._undo.append(partial(_reset_class, kind, state))
        return state.values()

    def _function(self, function: types.FunctionType) -> Iterable[Any]:
        values: list[Any] = [function.__defaults__, function.__kwdefaults__, function.__dict__]
        for cell in function.__closure__ or ():
            try:
                values.append(cell.cell_contents)
            except ValueError:  # it is empty
                continue
            self._undo.append(partial(setattr, cell, "cell_contents", values[-1]))
        variables = function.__globals__
        if not _of_library(variables.get("__name__", "")):
            for name in _global_names(function.__code__):
                self._undo.append(partial(_reset_variable, variables, name, variables.get(name, _MISSING)))
                values.append(variables.get(name))
        return values


_MISSING = object()
_WRAPPERS = (types.MethodType, staticmethod, classmethod, property, partial, type(cache(len)))
_WRAPPED = ("__self__", "__func__", "fget", "fset", "func", "args", "keywords", "__wrapped__")
_FOLDERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@cache
def _of_library(name: str) -> bool:
    """Whether a module is Python's own, installed from a package, or of this package: it keeps no state of a training."""
    top = name.partition(".")[0]
    if top == "noisescale" or top in sys.stdlib_module_names:
        return top != "__main__"
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and file.startswith(_FOLDERS)


@cache
def _global_names(code: types.CodeType) -> frozenset[str]:
    names = {each.argval for each in dis.get_instructions(code) if "GLOBAL" in each.opname or each.opname.endswith("_NAME")}
    inner = [_global_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return frozenset(names).union(*inner)


def _slots(kind: type) -> list[str]:
    if _of_library(kind.__module__):
        return []
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [
        f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    ]


def _fixed(name: str) -> bool:
    return name in ("__dict__", "__weakref__", "__doc__", "__module__") or name.startswith("__abstract") or name == "_abc_impl"


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _refill(container: Any, items: list[Any], fill: Callable[[list[Any]], None]) -> None:
    if not _same(list(container), items):
        container.clear()
        fill(items)


def _reset(found: dict[Any, Any], items: list[tuple[Any, Any]]) -> None:
    if not (_same(list(found), [key for key, _ in items]) and _same(list(found.values()), [value for _, value in items])):
        found.clear()
        found.update(items)


def _reset_class(kind: type, state: dict[str, Any]) -> None:
    for name in [name for name in vars(kind) if name not in state and not _fixed(name)]:
        delattr(kind, name)
    for name, value in state.items():
        if vars(kind).get(name, _MISSING) is not value:
            setattr(kind, name, value)


def _reset_variable(variables: dict[str, Any], name: str, value: Any) -> None:
    if value is _MISSING:
        variables.pop(name, None)
    else:
        variables[name] = value


def _set_back(tensor: Tensor, value: Tensor, gradient: Tensor | None, requires_grad: bool) -> None:
    with torch.no_grad():
        if tensor.shape != value.shape:
            tensor.set_(value)  # type: ignore[call-overload]
        tensor.detach().copy_(value)
        if tensor.is_leaf:
            tensor.requires_grad_(requires_grad)
            tensor.grad = gradient

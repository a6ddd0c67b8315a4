"""Run whole updates before a training, on a copy of the module that shares its memory, and leave no trace of them. Imports torch only."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from noisescale.execution.random_generators import same_generators, seed_random_generators

__all__ = ["Loss", "Rehearsal", "leaves", "loss_of_step", "rehearsal_of", "shared_tensors", "twin_optimizer", "without_logs"]

Loss = Callable[[Any, Any], Tensor]
"""(module, batch) -> the loss of the batch, a scalar."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Rehearsal:
    """Updates of a copy of a module, which change nothing but the memory that they need.

    Args:
        twin: the copy.
        optimizer: of its parameters.
        loss: (module, batch) -> loss.
        original: the module, whose parameters the loss must not depend on.
    """

    def __init__(self, twin: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, original: nn.Module) -> None:
        self.twin, self._optimizer, self._loss = twin, optimizer, loss
        self._foreign: set[int] | None = {id(parameter) for parameter in original.parameters()}

    def update(self, batch: Any, passes: int = 2) -> None:
        """Forward and backward passes on the same batch, and a step of the optimizer.

        With two passes the second one runs beside the gradients of the first, as in an update that accumulates.

        Raises:
            RuntimeError: the loss is not a tensor, or depends on parameters of the original.
        """
        self.forget_gradients()
        seed_random_generators(0)
        for _ in range(passes - 1):
            self._pass(batch)
        closure: Any = partial(self._pass, batch)  # some optimizers need a closure, and all call it first
        self._optimizer.step(closure)

    def forget_gradients(self) -> None:
        """Free the gradients, as before the first pass of an update."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _pass(self, batch: Any) -> Tensor:
        with torch.enable_grad():
            loss = self._loss(self.twin, batch)
            if not isinstance(loss, Tensor):
                raise RuntimeError("training_step returned no loss")
            if self._foreign is not None and any(id(leaf) in self._foreign for leaf in leaves(loss)):
                raise RuntimeError("the loss uses parameters through a function or a global variable, which a copy of the module shares")
            self._foreign = None
            loss.backward()
        return loss.detach()


@contextmanager
def rehearsal_of(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss | None = None) -> Iterator[Rehearsal]:
    """A rehearsal of a module. Afterwards the module, the optimizer and the random number generators are as they were before, bit for bit.

    The copy has tensors of its own that share the memory of the module's, so that it needs no memory beside it; their values are kept on
    the CPU and put back. What the copy shares otherwise is not put back: global variables, attributes of classes.

    Args:
        module: the module, on its device.
        optimizer: the optimizer of its parameters.
        loss: (module, batch) -> the loss; None: what `training_step` of the module returns.
    """
    with same_generators(module), shared_tensors(module, optimizer) as shared:
        twin = without_logs(copy.deepcopy(module, shared))
        yield Rehearsal(twin, twin_optimizer(optimizer, shared), loss or loss_of_step, module)


@contextmanager
def shared_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[dict[int, Any]]:
    """id of each tensor of the module and the optimizer -> another one in the same memory, for `copy.deepcopy`; the values are restored."""
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = {id(each): each for each in (*module.parameters(), *module.buffers(), *own, *states)}
    values = [each.detach().to("cpu", copy=True) for each in tensors.values()]
    try:
        yield {key: _sharing(each) for key, each in tensors.items()}
    finally:
        for each, value in zip(tensors.values(), values, strict=True):
            each.data.copy_(value)


def _sharing(tensor: Tensor) -> Tensor:
    """Another tensor in the same memory; it has no gradient yet, and no hooks."""
    data = tensor.data
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def twin_optimizer(optimizer: torch.optim.Optimizer, shared: dict[int, Any]) -> torch.optim.Optimizer:
    """A copy of the optimizer for the shared tensors, at a learning rate of 0, without hooks.

    Attribute by attribute, because torch leaves those out of copies that a class of the user's own has added. A scheduler puts a function
    in place of `step` that steps the original.
    """
    twin: torch.optim.Optimizer = object.__new__(type(optimizer))
    shared[id(optimizer)] = twin
    for name, value in vars(optimizer).items():
        if name.startswith("_optimizer_"):
            vars(twin)[name] = type(value)()
        elif name != "step":
            vars(twin)[name] = copy.deepcopy(value, shared)
    for group in twin.param_groups:
        if group.get("lr") is not None:
            group["lr"] = group["lr"] * 0
    return twin


def loss_of_step(module: Any, batch: Any) -> Tensor:
    """The loss that `training_step` of a LightningModule returns."""
    takes = inspect.signature(module.training_step).parameters
    with_index = "batch_idx" in takes or len(takes) > 1
    output = module.training_step(batch, 0) if with_index else module.training_step(batch)
    loss: Any = output.get("loss") if isinstance(output, dict) else output
    return loss  # type: ignore[no-any-return]


def without_logs(module: AnyModule) -> AnyModule:
    """The module, with `self.log` and `self.log_dict` of each LightningModule in it doing nothing."""
    for part in module.modules():
        if hasattr(part, "training_step") and hasattr(part, "log_dict"):
            part.__dict__["log"] = part.__dict__["log_dict"] = _log_nothing
    return module


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that a backward pass from `loss` adds a gradient to."""
    waiting: list[Any] = [loss.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            yield variable
        waiting.extend(following for following, _ in node.next_functions)

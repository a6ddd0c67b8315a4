"""The largest micro-batch that fits into memory, found by running updates. Imports torch only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import torch
from torch import Tensor, nn

from noisescale.errors import ConfigError, check_count
from noisescale.execution.memory import free_memory, is_out_of_memory
from noisescale.execution.rehearsal import Loss, Rehearsal, rehearsal_of
from noisescale.plans.checks import check_micro_batch_margin

__all__ = ["Found", "fits", "largest_micro_batch", "maker_of", "optimizer_of", "search"]


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Args:
        size: the micro-batch, in examples; an update with it was run. 0: not even the smallest one fits.
        largest: the largest size that ran.
        tried: how many sizes were run, with and without success.
    """

    size: int
    largest: int
    tried: int


def search(runs: Callable[[int], bool], at_most: int, *, multiple: int = 1, at_least: int = 1, margin: float = 0.1) -> Found:
    """The largest size s <= at_most such that s/(1 - margin) runs: sizes are doubled until one does not run, then bisected.

    The size that is returned was run itself. If that is the smallest one there is, the margin may be less.

    Args:
        runs: size -> whether an update of that size runs.
        at_most: the largest size that is of use, in examples.
        multiple: sizes are multiples of it.
        at_least: the smallest size allowed.
        margin: the share of the largest size that is left free, in [0, 1).
    """
    known: dict[int, bool] = {}
    tried = 0

    def ran(units: int) -> bool:
        nonlocal tried
        if units not in known:
            known[units] = runs(units * multiple)
            tried += 1
        return known[units]

    least = ceil(at_least / multiple)
    useful = max(floor(at_most / multiple), least)
    while True:
        largest = _largest(ran, least, max(ceil(useful / (1 - margin)), useful))
        units = 0 if largest < least else min(useful, max(floor(largest * (1 - margin) * (1 + 1e-12)), least))
        if units == 0 or ran(units):
            return Found(units * multiple, max(largest, 0) * multiple, tried)
        known, useful = {}, max(units - 1, least)  # larger ones ran, but not this one: the memory is in other pieces


def _largest(ran: Callable[[int], bool], least: int, most: int) -> int:
    """The largest number in least..most for which `ran` is true, if it is true up to some number; less than `least` if it never is."""
    good, size = least - 1, least
    while ran(size):
        good = size
        if size == most:
            return good
        size = min(2 * size, most)
    bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        if ran(middle):
            good = middle
        else:
            bad = middle
    return good


def fits(rehearsal: Rehearsal, batch: Callable[[int], Any], size: int) -> bool:
    """Whether an update with micro-batches of `size` examples runs in the memory that there is."""
    error = None
    try:
        rehearsal.update(batch(size))
    except (RuntimeError, MemoryError) as raised:
        if not is_out_of_memory(raised):
            raise
        error = raised
    rehearsal.forget_gradients()
    free_memory(error)
    return error is None


def largest_micro_batch(
    module: nn.Module,
    batch: Any,
    *,
    at_most: int,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss | None = None,
    multiple: int = 1,
    at_least: int = 1,
    margin: float = 0.1,
) -> int:
    """The largest micro-batch with which an update fits into the memory of the module's device, in examples.

    Each size is really run: two forward and backward passes, the second beside the gradients of the first, and a step of the optimizer with
    its state. Sizes are doubled until memory runs out or `at_most` is reached, then bisected; the size that is returned was run.
    Afterwards the module, the optimizer and the random number generators are as they were, bit for bit.

    On the CPU the system may swap, or end the program, before it says that there is no memory left; `at_most` should then be what is known
    to fit.

    Args:
        module: the module, on its device and in the mode of the training.
        batch: n -> a batch of n examples on that device; or one batch, whose tensors are repeated along their first dimension.
        at_most: the largest size that is of use: the largest batch of an update.
        optimizer: of the module's parameters; None: what `configure_optimizers` of the module returns.
        loss: (module, batch) -> the loss of the batch; with autocast, if the training has it. None: what `training_step` returns.
        multiple: sizes are multiples of it, such as those of ghost batches.
        at_least: the smallest size allowed, such as 3 with batch norm: what is left over of an update must have two examples.
        margin: the share of the largest size that is left free, in [0, 1), for memory in pieces and for longer examples.

    Raises:
        ConfigError: not even `at_least` examples fit; an argument is out of its range; there is no optimizer, or more than one.
        RuntimeError: the module cannot be run on a copy.
    """
    check_count("at_most", at_most, unit="examples")
    check_count("multiple", multiple, unit="examples")
    check_count("at_least", at_least, at_most=at_most, unit="examples")
    check_micro_batch_margin("margin", margin)
    make = maker_of(module, batch)
    with rehearsal_of(module, optimizer or optimizer_of(module), loss) as rehearsal:
        found = search(lambda size: fits(rehearsal, make, size), at_most, multiple=multiple, at_least=at_least, margin=margin)
    free_memory()
    if not found.size:
        raise ConfigError("at_least", at_least, "not even so many examples fit into memory", "use a smaller module, or another device")
    return found.size


def optimizer_of(module: Any) -> torch.optim.Optimizer:
    """The one optimizer that `configure_optimizers` of a LightningModule returns, in whichever of its forms.

    Raises:
        ConfigError: there is no such method, or not one optimizer.
    """
    if not hasattr(module, "configure_optimizers"):
        raise ConfigError("optimizer", None, "the module has no configure_optimizers", "give an optimizer of its parameters")
    made = module.configure_optimizers()
    if isinstance(made, (tuple, list)) and made and isinstance(made[0], (tuple, list)):
        made = made[0]
    found = [each["optimizer"] if isinstance(each, dict) else each for each in (made if isinstance(made, (tuple, list)) else [made])]
    if len(found) != 1 or not isinstance(found[0], torch.optim.Optimizer):
        raise ConfigError("optimizer", None, "configure_optimizers does not return exactly one", "give the optimizer")
    return found[0]


def maker_of(module: nn.Module, batch: Any) -> Callable[[int], Any]:
    """n -> a batch of n examples on the device of the module: `batch` itself if it is a function, otherwise its examples, repeated."""
    if callable(batch):
        make: Callable[[int], Any] = batch
        return make
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return lambda size: _repeated(batch, size, device)


def _repeated(batch: Any, size: int, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        if batch.dim() == 0:
            return batch.to(device)
        return batch[torch.arange(size, device=batch.device) % len(batch)].to(device)
    if isinstance(batch, dict):
        return {key: _repeated(value, size, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [_repeated(value, size, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch

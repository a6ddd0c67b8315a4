"""Examples per second over batch sizes: where more of them stop coming."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any

import torch
from torch import nn

from noisescale.errors import ConfigError, check_count, check_number
from noisescale.execution.micro_batch_search import fits, maker_of, optimizer_of
from noisescale.execution.rehearsal import Loss, Rehearsal, rehearsal_of
from noisescale.progress import progress_of

__all__ = ["saturation", "throughput"]

TURN = 0.02
"""Seconds that a turn of a size takes at least; updates that are faster are repeated."""


def throughput(
    module: nn.Module,
    batch: Any,
    sizes: Sequence[int],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss | None = None,
    rounds: int = 5,
    progress: Callable[[float], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """n -> examples per second of updates of n examples in one micro-batch: n / (median seconds of an update).

    An update is a forward and backward pass and a step of the optimizer, on a batch that lies on the device already: what the data cost is
    not in it, and nor are Lightning and its callbacks. The sizes take turns in each round, so that what slows the machine for a while slows
    all of them; a turn of each before the first round is not counted. Afterwards the module, the optimizer and the random number generators
    are as they were, bit for bit.

    Args:
        module: the module, on its device and in the mode of the training.
        batch: n -> a batch of n examples on that device; or one batch, whose tensors are repeated along their first dimension.
        sizes: the sizes, in examples. Those that do not fit into memory are left out of the result, and so are all that are larger.
        optimizer: of the module's parameters; None: what `configure_optimizers` of the module returns.
        loss: (module, batch) -> the loss of the batch; None: what `training_step` returns.
        rounds: how many times each size is timed.
        progress: is called with the share of the rounds that are done, 0 to 1. None: a bar on a terminal.
        clock: seconds.

    Returns:
        In the order of the sizes, from small to large.

    Raises:
        ConfigError: a size or the number of rounds is no positive whole number; there is no optimizer, or more than one.
    """
    for size in sizes:
        check_count("sizes", size, unit="examples")
    check_count("rounds", rounds)
    make = maker_of(module, batch)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with progress_of("throughput", progress) as shown, rehearsal_of(module, optimizer or optimizer_of(module), loss) as rehearsal:
        timer = _Timer(rehearsal, device, clock)
        updates: dict[int, int] = {}
        batches = {}
        for size in sorted(set(sizes)):
            if not fits(rehearsal, make, size):
                break
            batches[size] = make(size)
            updates[size] = max(1, ceil(TURN / max(timer.seconds(batches[size], 1), 1e-9)))
        turns: dict[int, list[float]] = {size: [] for size in batches}
        for turn in range(rounds):
            for number, (size, seconds) in enumerate(turns.items()):
                if shown is not None:
                    shown((turn + number / len(turns)) / rounds, f"B = {size}")
                seconds.append(timer.seconds(batches[size], updates[size]))
        rehearsal.forget_gradients()
    return {size: size / median(seconds) for size, seconds in turns.items()}


def saturation(rates: Mapping[int, float], share: float = 0.9) -> int:
    """The smallest size that has `share` of the most examples per second that any size has: larger ones gain little.

    Args:
        rates: size -> examples per second.
        share: in (0, 1].

    Raises:
        ConfigError: there are no rates; `share` is out of its range.
    """
    check_number("share", share, above=0, at_most=1)
    if not rates:
        raise ConfigError("rates", dict(rates), "must have at least one size")
    most = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= share * most)


class _Timer:
    """Times updates, on a device that may still be computing when a function returns."""

    def __init__(self, rehearsal: Rehearsal, device: torch.device, clock: Callable[[], float]) -> None:
        self._rehearsal, self._device, self._clock = rehearsal, device, clock

    def seconds(self, batch: Any, updates: int) -> float:
        """Seconds of an update, as a mean over `updates` of them."""
        self._finish()
        started = self._clock()
        for _ in range(updates):
            self._rehearsal.update(batch, passes=1)
        self._finish()
        return (self._clock() - started) / updates

    def _finish(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)

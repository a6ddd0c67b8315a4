"""Checks of options, called both before torch is imported and by the class that owns the option.

Each raises a `ConfigError` whose key is the name of the argument; `ConfigError.under` adds the config group.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from noisescale.errors import ConfigError, check_count, check_number

__all__ = [
    "AUTO",
    "check_decay_of_an_interval",
    "check_ghost_multiple",
    "check_gradient_noise",
    "check_label_smoothing",
    "check_measured_updates",
    "check_micro_batch_limit",
    "check_micro_batch_margin",
    "check_optimizer_options",
    "check_processes",
    "check_saving_intervals",
    "check_smallest_micro_batch",
]

AUTO = "auto"
"""The `max_micro_batch_size` that is found before a training."""

LARGEST_OPTION = 1e30
"""Times 10^8, as by a rule for the learning rate, it is still a 32-bit number."""


def check_optimizer_options(options: Mapping[str, Any]) -> None:
    """Check those options of torch's optimizers that are given.

    lr > 0; weight_decay, eps >= 0; momentum, alpha, rho and every beta in [0, 1); all finite, although torch accepts inf. fused and foreach
    are true, false or null, and cannot both be true. All but lr may be null, which leaves them to the class. No number may be above
    `LARGEST_OPTION`, because it is to be multiplied with 32-bit numbers.
    """
    for key, value in options.items():
        if value is None and key != "lr":
            continue
        if isinstance(value, (int, float)) and LARGEST_OPTION < abs(value) < math.inf:
            raise ConfigError(key, value, f"must be at most {LARGEST_OPTION:g}", "the weights are 32-bit numbers, which end at 3.4e38")
        match key:
            case "lr":
                check_number(key, value, above=0.0)
            case "eps" if isinstance(value, Sequence) and not isinstance(value, str):  # Adafactor has two, of which one may be open
                for eps in (each for each in value if each is not None):
                    check_number(key, eps, at_least=0.0)
            case "weight_decay" | "eps":
                check_number(key, value, at_least=0.0)
            case "momentum" | "alpha" | "rho":
                check_number(key, value, at_least=0.0, below=1.0)
            case "betas":
                if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < 2:
                    raise ConfigError(key, value, "must be two numbers in [0, 1)")
                for beta in value:
                    check_number(key, beta, at_least=0.0, below=1.0)
            case "fused" | "foreach":
                if not isinstance(value, bool):
                    raise ConfigError(key, value, "must be true, false or null", "null is torch's own choice")
    if options.get("fused") and options.get("foreach"):
        raise ConfigError("fused", True, "cannot be combined with foreach=true", "set one of them to null")


def check_label_smoothing(value: Any) -> None:
    """a in [0, 1): the share of the target that is spread over all classes."""
    check_number("label_smoothing", value, at_least=0, below=1)


def check_processes(key: str, value: Any, *, at_least: int, unit: str, remedy: str = "") -> None:
    """Check a number of processes or threads: more than four for each core only wait for each other, but 64 are always allowed."""
    check_count(key, value, at_least=at_least, unit=unit, remedy=remedy)
    most = max(64, 4 * (os.cpu_count() or 1))
    if value > most:
        raise ConfigError(key, value, f"is more {unit} than this machine can use; at most {most}", remedy)


def check_ghost_multiple(key: str, size: int | None, ghost_batch_size: int) -> None:
    """Check that a limit of the micro-batch is a multiple of the ghost batch; otherwise it would change what batch norm sees.

    Args:
        key: the name of the limit.
        size: the limit, in examples; None: no limit.
        ghost_batch_size: in examples; 1 without ghost batch norm.
    """
    if size is not None and size % ghost_batch_size:
        problem = f"must be a multiple of ghost_batch_size={ghost_batch_size}"
        raise ConfigError(key, size, problem, "else it would change what batch norm sees")


def check_micro_batch_limit(key: str, size: Any, *, remedy: str) -> None:
    """Raise `ConfigError` unless a limit of the micro-batch is a whole number of examples, `AUTO`, or None for no limit."""
    if size is not None and size != AUTO:
        check_count(key, size, unit="examples", remedy=remedy)


def check_micro_batch_margin(key: str, margin: Any) -> None:
    """The share of the largest micro-batch that fits which a search leaves free, in [0, 1)."""
    check_number(key, margin, at_least=0, below=1)


def check_smallest_micro_batch(key: str, size: int | None, at_least: int) -> None:
    """Check that a limit of the micro-batch allows for as many examples as batch norm needs.

    Args:
        key: the name of the limit.
        size: the limit, in examples; None: no limit.
        at_least: the fewest examples of a forward pass: 2 with batch norm, otherwise 1.
    """
    if size is not None and size < at_least:
        raise ConfigError(key, size, f"batch norm needs at least {at_least} examples in a micro-batch", f"use {2 * at_least - 1} or more")


def check_gradient_noise(every_n_updates: Any, decay: Any, confidence: Any) -> None:
    """Check the arguments of `callbacks.GradientNoiseScale`: a number of updates or None, a number in [0, 1) and one in (0, 1)."""
    if every_n_updates is not None:
        check_count("every_n_updates", every_n_updates, unit="updates", remedy="null for the split_every of the plan")
    check_number("decay", decay, at_least=0.0, below=1.0)
    check_number("confidence", confidence, above=0.0, below=1.0)


def check_decay_of_an_interval(decay: float) -> None:
    """Check that averages have an interval, by which a batch goes: those of fewer than three measurements have none."""
    if decay <= 0.5:
        problem = "averages fewer than three measurements, which have no interval that the batch could go by"
        raise ConfigError("decay", decay, problem, "choose one above 0.5")


def check_measured_updates(every_n_updates: int, split_every: int | None) -> None:
    """Check that the plan cuts the updates that are measured, if it cuts any for that."""
    if split_every is not None and every_n_updates % split_every:
        raise ConfigError("every_n_updates", every_n_updates, f"must be a multiple of split_every={split_every}", "null for the same")


def check_saving_intervals(every_n_updates: Any, every_n_minutes: Any, monitor: str | None) -> None:
    """Raise `ConfigError` unless checkpoints can be saved at these intervals, where None is no interval.

    Args:
        every_n_updates: a whole number of updates.
        every_n_minutes: a number of minutes.
        monitor: the metric that decides which checkpoint is the best; None for the last checkpoint.
    """
    never = "null for none between the ends of epochs"
    if every_n_updates is not None:
        check_count("every_n_updates", every_n_updates, unit="updates", remedy=never)
    if every_n_minutes is not None:
        check_number("every_n_minutes", every_n_minutes, above=0, unit="minutes", remedy=never)
    for key, interval in (("every_n_updates", every_n_updates), ("every_n_minutes", every_n_minutes)):
        if interval is not None and monitor is not None:
            problem = f"cannot be combined with monitor={monitor}, which is compared after a validation"
            raise ConfigError(key, interval, problem, "give it to the callback of the last checkpoint")

"""Errors for users to read: one line with the key, the value, the valid range and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

__all__ = [
    "ConfigError",
    "check_choice",
    "check_count",
    "check_increasing",
    "check_number",
]


LARGEST_COUNT = 10**15
"""More than there is of anything that is counted here; larger numbers do not fit where torch needs 64 bits."""


class ConfigError(ValueError):
    """A setting that cannot be used: `key=value: problem; remedy`.

    Args:
        key: the name that the user typed, without its group (`gamma`); `under` adds the group.
        value: the value that was given.
        problem: what is wrong with it and which range is valid, as a phrase ("must be in (0, 1]").
        remedy: what to do instead, as a phrase; may be empty.
    """

    def __init__(self, key: str, value: Any, problem: str, remedy: str = "") -> None:
        self.key, self.value, self.problem, self.remedy = key, value, problem, remedy
        super().__init__(key, value, problem, remedy)  # the same arguments, so that the error can be pickled

    def under(self, group: str) -> ConfigError:
        """The same error with its key inside a config group: `gamma` -> `scheduler.gamma`."""
        return type(self)(f"{group}.{self.key}" if group else self.key, self.value, self.problem, self.remedy)

    def __str__(self) -> str:
        line = f"{self.key}={self.value}: {self.problem}"
        return f"{line}; {self.remedy}" if self.remedy else line


def check_number(
    key: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    unit: str = "",
    remedy: str = "",
) -> None:
    """Raise `ConfigError` unless `value` is a finite number in the given range.

    `above` and `below` exclude the bound, `at_least` and `at_most` include it.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and above < value < below and at_least <= value <= at_most:
        return
    low = f"({_shortest(above)}" if above > -math.inf else f"[{_shortest(at_least)}" if at_least > -math.inf else "(-inf"
    high = f"{_shortest(below)})" if below < math.inf else f"{_shortest(at_most)}]" if at_most < math.inf else "inf)"
    words = f"must be a finite number in {low}, {high}" + (f", in {unit}" if unit else "")
    raise ConfigError(key, value, words, remedy)


def _shortest(bound: float) -> str:
    """The shortest text that does not change the number: 1, 0.1, 1281167."""
    short = f"{bound:g}"
    return short if float(short) == bound else str(bound)


def check_count(key: str, value: Any, *, at_least: int = 1, at_most: int | None = None, unit: str = "", remedy: str = "") -> None:
    """Raise `ConfigError` unless `value` is a whole number in `[at_least, at_most]`, and no more than `LARGEST_COUNT`."""
    if at_most is None and isinstance(value, int) and value > LARGEST_COUNT:
        at_most = LARGEST_COUNT
    if isinstance(value, int) and not isinstance(value, bool) and value >= at_least and (at_most is None or value <= at_most):
        return
    words = f"must be a whole number of {unit}" if unit else "must be a whole number"
    words += f", {at_least} to {at_most}" if at_most is not None else f", at least {at_least}"
    raise ConfigError(key, value, words, remedy)


def check_choice(key: str, value: Any, choices: Iterable[str]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    names = list(choices)
    if value not in names:
        raise ConfigError(key, value, f"must be one of {', '.join(names)}")


def check_increasing(key: str, values: Any, *, unit: str) -> None:
    """Raise `ConfigError` unless `values` is a list of strictly increasing positive numbers."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ConfigError(key, values, f"must be a list of {unit}", f"for example {key}=[10,20]")
    for value in values:
        check_number(key, value, above=0, unit=unit, remedy=f"given: {list(values)}")
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ConfigError(key, list(values), f"must be strictly increasing, in {unit}", f"for example {sorted(set(values))}")

"""Whether images belong in memory."""

from __future__ import annotations

import math

from noisescale.errors import ConfigError, check_number

__all__ = ["check_memory_options", "fits_memory"]


def check_memory_options(in_memory: bool | str, memory_limit_gb: float) -> None:
    """Raise `ConfigError` unless `in_memory` is True, False or `auto`, and the limit, in 10^9 bytes, a number above 0."""
    if not isinstance(in_memory, bool) and in_memory != "auto":
        raise ConfigError("in_memory", in_memory, "must be auto, true or false")
    check_number("memory_limit_gb", memory_limit_gb, above=0, unit="GB")


def fits_memory(
    num_train: int, num_test: int, shape: tuple[int, ...], *, in_memory: bool | str, memory_limit_gb: float, smaller: str
) -> bool:
    """Whether this many images of `shape` belong in memory, at one byte per pixel and channel.

    Raises:
        ConfigError: `in_memory` is True and they do not fit; `smaller` names the keys that make them fewer or smaller.
    """
    needed = (num_train + num_test) * math.prod(shape) / 1e9
    if in_memory is False or needed <= memory_limit_gb:
        return in_memory is not False
    if in_memory == "auto":
        return False
    sizes = " x ".join(map(str, shape))
    raise ConfigError(
        "memory_limit_gb",
        memory_limit_gb,
        f"{num_train} training and {num_test} test images of {sizes} need {needed:.3g} GB decoded",
        f"lower {smaller}, raise data.memory_limit_gb, or let data.in_memory=auto decide",
    )

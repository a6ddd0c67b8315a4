"""The size of a data set, and how many of its examples are for training: all that a plan needs to know of it. Standard library only."""

from __future__ import annotations

import math
from typing import Any

from noisescale.errors import ConfigError, check_count, check_number

__all__ = ["TRAINING_EXAMPLES", "check_stand_in_size", "refuse_stand_in_size", "split_sizes"]

TRAINING_EXAMPLES = {"digits": 1437, "diabetes": 354, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
"""Number of training examples of the data sets whose size is known without reading them."""


def split_sizes(n: int, *, subset_size: int | None, val_fraction: float) -> tuple[int, int]:
    """(N, n_val): how many examples are for training and how many for validation.

    m = subset_size or n; n_val = round(val_fraction m), but at least 1 unless val_fraction is 0; N = m - n_val.

    Raises:
        ConfigError: `subset_size` is not in [1, n], `val_fraction` is not in [0, 1), or nothing is left to train on.
    """
    check_number("val_fraction", val_fraction, at_least=0, below=1)
    if subset_size is not None:
        check_count("subset_size", subset_size, unit="examples", remedy="null uses all")
        if subset_size > n:
            raise ConfigError("subset_size", subset_size, f"the training set has {n} examples", f"choose 1 to {n}, or null for all")
    m = n if subset_size is None else subset_size
    n_val = 0 if val_fraction == 0 else max(1, math.floor(val_fraction * m + 0.5))
    if n_val >= m:
        raise ConfigError("val_fraction", val_fraction, f"leaves none of {m} examples to train on", "lower it, or raise data.subset_size")
    return m - n_val, n_val


def check_stand_in_size(size: Any, subset_size: Any) -> None:
    """Check `size`, an N that replaces the data if only a plan is made: it must be a count, and exclude `subset_size`.

    Raises:
        ConfigError: `size` is not a positive whole number, or `subset_size` is given as well.
    """
    if size is None:
        return
    check_count("size", size, unit="examples", remedy="null for the size of the data set")
    if subset_size is not None:
        raise ConfigError("subset_size", subset_size, "has no effect with data.size, which is N itself", "set only one of them")


def refuse_stand_in_size(size: Any) -> None:
    """Raise `ConfigError` if `size` is given, because then there are no data to read."""
    if size is not None:
        raise ConfigError("size", size, "replaces the data, and is only for plan.py", "leave it at null to train")

"""Set the global random number generators from one seed."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import torch

__all__ = ["seed_random_generators"]


def seed_random_generators(seed: int) -> None:
    """Seed torch (on all devices), numpy and random in this process."""
    if _accelerator_in_use():
        torch.manual_seed(seed)
    else:  # This gives the same numbers; `torch.manual_seed` would also record a stack trace at every call for each device not in use.
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' transforms draw from the global generator
    random.seed(seed)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def _accelerator_in_use() -> bool:
    return _has_accelerator() and (not torch.cuda.is_available() or torch.cuda.is_initialized())

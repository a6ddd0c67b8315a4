"""Set the global random number generators from one seed, and put them back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import nn

__all__ = ["same_generators", "seed_random_generators"]


def seed_random_generators(seed: int) -> None:
    """Seed torch (on all devices), numpy and random in this process."""
    if _accelerator_in_use():
        torch.manual_seed(seed)
    else:  # This gives the same numbers; `torch.manual_seed` would also record a stack trace at every call for each device not in use.
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - users' transforms draw from the global generator
    random.seed(seed)


@contextmanager
def same_generators(module: nn.Module) -> Iterator[None]:
    """Restore all random number generators, also those of the devices of `module`."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - users' transforms draw from the global generator
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def _accelerator_in_use() -> bool:
    return _has_accelerator() and (not torch.cuda.is_available() or torch.cuda.is_initialized())

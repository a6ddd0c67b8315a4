"""The large imports, as fast as they can be had."""

from __future__ import annotations

import atexit
import gc
from functools import cache
from importlib import import_module

__all__ = ["import_libraries"]

# torch._dynamo: every optimizer of torch needs it.
_NAMES = ("pytorch_lightning", "torch._dynamo", "noisescale.callbacks", "noisescale.data", "noisescale.models")


@cache
def import_libraries() -> None:
    """Import what every training needs, with the garbage collector off: it would search the growing heap again and again.

    What was imported is then left out of its searches, except for those at the end of the process.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for name in _NAMES:
            import_module(name)
    finally:
        if collects:
            gc.enable()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules complain of what is never freed

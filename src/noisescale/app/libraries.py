"""Import the large libraries as fast as possible."""

from __future__ import annotations

import atexit
import gc
from functools import cache
from importlib import import_module

__all__ = ["import_libraries"]

# torch._dynamo is listed because every torch optimizer imports it.
_NAMES = ("pytorch_lightning", "torch._dynamo", "noisescale.callbacks", "noisescale.data", "noisescale.models")


@cache
def import_libraries() -> None:
    """Import what every training needs, with the garbage collector off, because it would search the growing heap again and again.

    From then on the collector ignores the imported objects, until the process ends.
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
    atexit.register(gc.unfreeze)  # some extension modules warn about objects that are never freed

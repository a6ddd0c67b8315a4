"""Errors that say that memory has run out, and what gives memory back after one. Imports torch only."""

from __future__ import annotations

import errno
import gc
import traceback

import torch

__all__ = ["free_memory", "is_out_of_memory"]

_SAID = ("out of memory", "an't allocate memory", "annot allocate memory", "not enough memory", "_ALLOC_FAILED", "_ALLOCATION_FAILED")
"""What torch, CUDA, cuBLAS, cuDNN and the system say."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of a device or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def free_memory(error: BaseException | None = None) -> None:
    """Give memory back that nothing needs any more: what the functions held that `error` has ended, and what torch keeps for later."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()

"""Every workaround that the project has for speed in Lightning's loop, in one place.

The update of a small network takes a fraction of a millisecond, of which the calls around it are the larger part. Nothing here changes
a number; without it everything works, slower.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler

__all__ = ["LeanCallback", "LeanModule", "NoProfiler", "use_fast_checksums"]


class _WithoutBatchHooks:
    """The hooks that Lightning calls for each batch, each None until a subclass defines it.

    Lightning prepares the call of each hook for every batch, also where the hook is empty; one that is None it skips. So a subclass has
    no `super().on_train_batch_end(...)` to call.
    """

    on_train_batch_start: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
    on_train_batch_end: Any = None


class LeanCallback(_WithoutBatchHooks, pl.Callback):
    """A callback that costs nothing per batch but for the hooks that it defines."""


class LeanModule(_WithoutBatchHooks, pl.LightningModule):
    """A LightningModule whose housekeeping per batch is cheap."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the current hook in this attribute about forty times per update; torch's own `__setattr__` looks through
        # all parameters and submodules each time.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Lightning's own, where there is something to clip."""
        if gradient_clip_val is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """What `optimizer.zero_grad()` comes to, in a tenth of its time."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class NoProfiler(PassThroughProfiler):
    """A profiler that measures nothing and costs next to nothing.

    Lightning's own, which measures nothing either, makes a generator for each of the about fifty calls that it wraps per update.
    """

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()


@cache
def use_fast_checksums() -> None:
    """Let TensorBoard's writers in this process take their checksums from google-crc32c, where that is installed.

    TensorBoard's own function goes through each record byte by byte in Python, which costs more than everything else that a small
    network's update logs.
    """
    with suppress(ImportError):
        import google_crc32c
        from tensorboard.summary.writer import record_writer

        def masked(data: bytes) -> int:
            crc: int = google_crc32c.value(data)
            return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF  # the mask of the TFRecord format

        record_writer.masked_crc32c = masked

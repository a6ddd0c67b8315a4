"""What keeps Lightning's loop cheap: the cost of a small network's update is that of the calls around it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.profilers import PassThroughProfiler

__all__ = ["LeanCallback", "NoProfiler", "WithoutBatchHooks"]


class WithoutBatchHooks:
    """For a callback or a LightningModule, in front of Lightning's class: hooks that it does not define cost nothing per batch.

    Lightning prepares the call of each of these for every batch, the empty ones too; one that is None it skips. So a subclass has no
    `super().on_train_batch_end(...)` to call.
    """

    on_train_batch_start: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
    on_train_batch_end: Any = None


class LeanCallback(WithoutBatchHooks, Callback):
    """A callback that costs nothing per batch but for the hooks that it has."""


class NoProfiler(PassThroughProfiler):
    """Measures nothing, and costs next to nothing.

    Lightning's own, which measures nothing either, makes a generator for each of the about fifty calls that it wraps per update.
    """

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()

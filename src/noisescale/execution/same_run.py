"""Check that a resumed run has the same configuration as the run that was saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from noisescale.errors import ConfigError
from noisescale.execution.lean import LeanCallback

__all__ = ["SameRun"]


class SameRun(LeanCallback):
    """Save the choices of a run in its checkpoints, and refuse to resume it with different ones.

    Without it a checkpoint would silently override some choices (the optimizer's learning rate) and silently be overridden by others (the
    seed, and with it the split into training and validation examples).

    Args:
        choices: dotted key -> plain value, only for the keys that a resumed run must not change.

    Raises:
        ConfigError: a checkpoint is loaded that differs in a key; the error is about the first such key.
    """

    def __init__(self, choices: Mapping[str, Any]) -> None:
        self.choices = dict(choices)
        self._ours: Callable[[dict[str, Any]], None] | None = None
        self._before: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"choices": self.choices}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare before the weights are loaded, whose shapes may differ because of a choice.

        Lightning restores its callbacks after the weights, but calls the module's `on_load_checkpoint` before them.
        """
        own = pl_module.on_load_checkpoint
        self._before = {name: value for name, value in vars(pl_module).items() if name == "on_load_checkpoint"}

        def compare_first(checkpoint: dict[str, Any]) -> None:
            saved = (checkpoint.get("callbacks") or {}).get(self.state_key)
            if saved:
                self._compare(saved["choices"])
            own(checkpoint)

        self._ours = compare_first
        pl_module.on_load_checkpoint = compare_first  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave(pl_module)

    def _leave(self, pl_module: pl.LightningModule) -> None:
        """Give the module its own hook back."""
        if vars(pl_module).get("on_load_checkpoint") is self._ours is not None:
            del pl_module.on_load_checkpoint
            vars(pl_module).update(self._before)
        self._ours = None

    def _compare(self, saved: Mapping[str, Any]) -> None:
        for key in sorted({*saved, *self.choices}):
            before, now = saved.get(key), self.choices.get(key)
            if key not in saved:
                problem = "is not a key of the checkpoint, which was saved by another version or with another option"
                raise ConfigError(key, now, problem, "start anew, or resume with the version and options that saved it")
            if before != now:
                raise ConfigError(key, now, f"the checkpoint was trained with {key}={before}", "resume with the same, or start anew")

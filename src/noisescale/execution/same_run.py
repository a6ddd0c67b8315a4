"""Check that a resumed run has the same configuration as the run that was saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from noisescale.errors import ConfigError
from noisescale.execution.lean import LeanCallback

__all__ = ["PlanOfRun", "SameRun"]


@dataclass(frozen=True)
class PlanOfRun:
    """What decides the updates of a run, which the weights and the optimizer do not show.

    Args:
        choices: dotted key -> plain value of the batches and the learning rates.
        options: group -> the option that gives its keys; if a key differs because of another option, the error is about the option.
        changes: dotted key -> plain value of what may change, such as the number of epochs.
        said: (key, value of the checkpoint, module, epoch of the checkpoint) -> what such a change has as a consequence, in words; may be
            empty.
        found: returns those of `changes` that are known only in the training, for its checkpoints.
    """

    choices: Mapping[str, Any]
    options: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    said: Callable[[str, Any, pl.LightningModule, int], str] = lambda key, before, module, epoch: ""
    found: Callable[[], Mapping[str, Any]] = dict

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it."""
        return {"choices": dict(self.choices), "options": dict(self.options), "changes": {**self.changes, **self.found()}}

    def compare(self, saved: Mapping[str, Any] | None) -> dict[str, Any]:
        """Compare with the state in a checkpoint, or None if it has none; returns what may change and has changed, as it was."""
        if saved is None:
            known = ", ".join(dict.fromkeys(key.partition(".")[0] for key in (*self.choices, *self.changes)))
            rank_zero_info(f"note: the checkpoint is of a version that did not save {known}: they are taken as they are given here")
            return {}
        for key in sorted({*saved["choices"], *self.choices}):
            before, now = saved["choices"].get(key), self.choices.get(key)
            if before == now:
                continue
            group = key.partition(".")[0]
            had, has = saved["options"].get(group), self.options.get(group)
            if had != has:
                key, before, now = group, had, has
            remedy = "resume with the same, or start a new training from its weights"
            raise ConfigError(key, now, f"the checkpoint was trained with {key}={before}", remedy)
        return {key: before for key, before in saved["changes"].items() if self.changes.get(key) != before}

    def say(self, changed: Mapping[str, Any], pl_module: pl.LightningModule, epoch: int) -> None:
        """A line for each change that has a consequence."""
        for key, before in changed.items():
            if words := self.said(key, before, pl_module, epoch):
                rank_zero_info(f"note: {key}={self.changes.get(key)}, the checkpoint was trained with {key}={before}: {words}")


class SameRun(LeanCallback):
    """Save the choices of a run in its checkpoints, and refuse to resume it with different ones.

    Without it a checkpoint would silently override some choices (the optimizer's learning rate) and silently be overridden by others (the
    seed, and with it the split into training and validation examples).

    Args:
        choices: dotted key -> plain value, only for the keys that a resumed run must not change.
        plan: what decides the updates, if it is to be compared, too. A line says so if a checkpoint does not have it.

    Raises:
        ConfigError: a checkpoint is loaded that differs in a key; the error is about the first such key.
    """

    def __init__(self, choices: Mapping[str, Any], plan: PlanOfRun | None = None) -> None:
        self.choices, self.plan = dict(choices), plan
        self._ours: Callable[[dict[str, Any]], None] | None = None
        self._before: dict[str, Any] = {}
        self._changed: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"choices": self.choices} if self.plan is None else {"choices": self.choices, "plan": self.plan.state()}

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
                if self.plan is not None:
                    self._changed = self.plan.compare(saved.get("plan"))
            own(checkpoint)

        self._ours = compare_first
        pl_module.on_load_checkpoint = compare_first  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave(pl_module)
        if self.plan is not None:
            self.plan.say(self._changed, pl_module, trainer.current_epoch)
        self._changed = {}

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

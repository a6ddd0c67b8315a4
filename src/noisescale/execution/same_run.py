"""Check that a resumed run has the same configuration as the run that was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def state_dict(self) -> dict[str, Any]:
        return {"choices": self.choices}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["choices"]
        for key in sorted({*saved, *self.choices}):
            before, now = saved.get(key), self.choices.get(key)
            if key not in saved:
                problem = "is not a key of the checkpoint, which was saved by another version or with another option"
                raise ConfigError(key, now, problem, "start anew, or resume with the version and options that saved it")
            if before != now:
                raise ConfigError(key, now, f"the checkpoint was trained with {key}={before}", "resume with the same, or start anew")

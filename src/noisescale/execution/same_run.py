"""A resumed run is the run that was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noisescale.errors import ConfigError
from noisescale.execution.lean import LeanCallback

__all__ = ["SameRun"]


class SameRun(LeanCallback):
    """Keep the choices of a run in its checkpoints, and refuse to resume it with others.

    Without it a checkpoint wins over some choices (the optimizer's rate) and loses to others (the seed, and with it which examples
    validate), in silence.

    Args:
        choices: dotted key -> plain value; only what a resumed run must not change.

    Raises:
        ConfigError: on loading a checkpoint, for the first key that differs.
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
                problem = "is no key of the checkpoint, which another version or another option saved"
                raise ConfigError(key, now, problem, "start anew, or resume with what saved it")
            if before != now:
                raise ConfigError(key, now, f"the checkpoint was trained with {key}={before}", "resume with the same, or start anew")

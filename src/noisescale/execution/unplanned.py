"""Continue a training with a plan that began without one: its clock is the number of passes that the trainer has counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from noisescale.errors import ConfigError
from noisescale.plans.plan import Cursor

__all__ = ["position_after"]


def position_after(progress: Mapping[str, Any], updates: int, num_examples: int, key: str, value: Any) -> dict[str, Any]:
    """The state of a `PlannedLoader` at the start of epoch E, where a training without a plan has ended E passes.

    The clock is E, whatever the batches were: position = E N and step = `updates`. Inside a pass nothing says which of its examples have
    been used, because their order was not the plan's.

    Args:
        progress: `trainer.fit_loop.state_dict()`, or the same from a checkpoint.
        updates: updates done.
        num_examples: N.
        key, value: what is continued, for the message.

    Raises:
        ConfigError: the training has ended inside a pass.
    """
    passes, batches = progress["epoch_progress"]["current"], progress["epoch_loop.batch_progress"]
    epochs, current = passes["ready"], batches["current"]
    at_an_end = passes["started"] == epochs and batches["is_last_batch"] and current["processed"] == current["ready"]
    if epochs and not at_an_end:
        problem = f"began without BatchSizeScheduler and ends inside epoch {epochs - 1}, where its examples are not known"
        raise ConfigError(key, value, problem, "resume from the end of an epoch, or load only the weights")
    position = epochs * num_examples
    return {
        # the trainer is still in its last epoch, and moves on to the next one by itself
        "epoch": max(epochs - 1, 0),
        "trainer_epoch": max(epochs - 1, 0),
        "cursor": asdict(Cursor(updates, position, position)),
        "micro_batches_done": 0,
        "batches_before_update": current["ready"],
    }

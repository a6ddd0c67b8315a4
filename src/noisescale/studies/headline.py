"""The headline of a run: the one metric of the test that a line or a row of a table has room for; and metrics in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["headline", "in_words"]

_STAGES = {"train": "training", "val": "validation", "valid": "validation", "test": "test"}
_WORDS = {"acc": "accuracy", "rmse": "RMSE", "mae": "MAE", "mse": "MSE"}


def headline(results: Mapping[str, Any]) -> tuple[str, float] | None:
    """(`test accuracy`, its value): the first metric of the test that is not the loss, or else the loss; None without a test.

    Args:
        results: tag -> value, as in results.json, where None stands for nan and inf.
    """
    tags = [tag for tag in results if tag.startswith(("test/", "test_"))]
    tag = next((tag for tag in tags if tag[len("test/") :] != "loss"), tags[0] if tags else None)
    if tag is None:
        return None
    return in_words(tag), math.nan if results[tag] is None else float(results[tag])


def in_words(tag: str) -> str:
    """`val/acc` -> `validation accuracy`; a tag of another form is left as it is."""
    found = re.fullmatch(r"(train|val|valid|test)[/_](.*)", tag, flags=re.DOTALL)
    return f"{_STAGES[found[1]]} {_WORDS.get(found[2], found[2])}" if found else tag

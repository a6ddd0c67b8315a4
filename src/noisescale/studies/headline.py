"""The headline of a run: the one metric of the test that a line or a row of a table has room for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["headline"]

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
    word = tag[len("test/") :]
    return f"test {_WORDS.get(word, word)}", math.nan if results[tag] is None else float(results[tag])

"""Numbers as a reader wants them: as many digits as an interval leaves meaning to, and at most four significant ones."""

from __future__ import annotations

import math

__all__ = ["estimate_in_words", "interval_in_words"]


def estimate_in_words(value: float, low: float | None, high: float | None) -> str:
    """`0.995`, to two digits of the width of its interval."""
    return _shown(value, _format(low, high))


def interval_in_words(low: float | None, high: float | None) -> str:
    """`0.985 to 1.005`, to two digits of its width; empty without an interval."""
    if low is None or high is None:
        return ""
    return f"{_shown(low, _format(low, high))} to {_shown(high, _format(low, high))}"


def _shown(value: float, form: str) -> str:
    text = f"{value:{form}}"
    return text.removeprefix("-") if float(text) == 0 else text


def _format(low: float | None, high: float | None) -> str:
    if low is None or high is None or not math.isfinite(high - low) or high <= low:
        return ".4g"
    smallest, largest = sorted((abs(low), abs(high)))
    if low * high > 0 and largest > 5 * smallest:
        return ".2g"  # so that the nearer end of an interval such as 0.02 to 11 does not become 0
    of_width = 1 - math.floor(math.log10(high - low))
    significant = 3 - math.floor(math.log10(largest))
    return f".{max(0, min(of_width, significant))}f"

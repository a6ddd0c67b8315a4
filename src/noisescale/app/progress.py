"""A progress bar with the time left, on the standard error, for what takes longer than a moment. Silent unless that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["progress_bar"]

A_MOMENT = 0.5
"""Seconds that work may take without a bar, so that short work does not make one flash."""


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float], None] | None]:
    """A function to be called with the share of the work that is done, 0 to 1; None if nothing would be shown.

    The bar is removed when the block ends.
    """
    if not sys.stderr.isatty():
        yield None
        return
    began, shown = time.monotonic(), None

    def advance(share: float) -> None:
        nonlocal shown
        if shown is None:
            if time.monotonic() - began < A_MOMENT:
                return
            shown = _bar(title)
        shown.update(shown.task_ids[0], completed=min(1.0, share))

    try:
        yield advance
    finally:
        if shown is not None:
            shown.stop()


def _bar(title: str) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)  # its columns end with the time left
    bar.add_task(title, total=1.0)
    bar.start()
    return bar

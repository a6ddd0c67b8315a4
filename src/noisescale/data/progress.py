"""A progress bar with the time left, on the standard error, for work on many files. Silent unless that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to be called with the number of parts, of `total`, that have been done since the last call.

    The bar is removed when the block ends. Whether there is a terminal is not left to rich, which an environment variable can persuade.
    """
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda parts: progress.advance(bar, parts)

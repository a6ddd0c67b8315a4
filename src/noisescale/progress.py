"""A progress bar with the time left, on the standard error, for what takes longer than a moment. Silent unless that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["Progress", "in_words", "part_of", "progress_bar", "progress_of"]

A_MOMENT = 0.5
"""Seconds that work may take without a bar, so that short work does not make one flash."""


class Progress(Protocol):
    """Is called with the share of the work that is done, 0 to 1, and with what is being done, in a few words, if that has changed."""

    def __call__(self, share: float, what: str = "", /) -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[Progress | None]:
    """What shows the progress of some work; None if nothing would be shown.

    The bar is removed when the block ends.
    """
    if not sys.stderr.isatty():
        yield None
        return
    began, shown, doing = time.monotonic(), None, ""

    def advance(share: float, what: str = "", /) -> None:
        nonlocal shown, doing
        doing = what or doing
        if shown is None:
            if time.monotonic() - began < A_MOMENT:
                return
            shown = _bar(title, began)
        shown.set_description_str(f"{title}: {doing}" if doing else title, refresh=False)
        shown.update(min(1.0, share) - shown.n)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.close()


@contextmanager
def progress_of(title: str, told: Callable[[float], None] | None) -> Iterator[Progress | None]:
    """The progress of a function for code of one's own: `told`, which the caller gave, or else a bar."""
    if told is None:
        with progress_bar(title) as progress:
            yield progress
        return

    def tell(share: float, what: str = "", /) -> None:
        told(share)

    yield tell


def in_words(progress: Progress | None) -> Callable[[str, float], None]:
    """A function that is called with what is being done, and then with the share that is done."""
    return lambda what, share: None if progress is None else progress(share, what)


def part_of(tell: Callable[[str, float], None], what: str, from_share: float, to_share: float) -> Progress:
    """The progress of one part of the work, which begins: it takes the shares between two of the whole.

    Args:
        tell: is called with what is being done, and with the share of the whole.
        what: the part.
        from_share, to_share: of the whole, before the part and after it.
    """
    doing = what

    def advance(share: float, now: str = "", /) -> None:
        nonlocal doing
        doing = f"{what}, {now}" if now else doing
        tell(doing, from_share + share * (to_share - from_share))

    tell(what, from_share)
    return advance


def _bar(title: str, began: float) -> tqdm[None]:
    from tqdm import tqdm

    size = get_terminal_size()  # tqdm shows nothing on a terminal that does not know its own
    bar = tqdm(
        total=1.0,
        desc=title,
        file=sys.stderr,
        leave=False,
        bar_format="{desc} {percentage:3.0f}% {bar:18} {remaining} left",
        miniters=0,
        smoothing=0.0,
        delay=1e-6,
        ncols=size.columns,
        nrows=size.lines,
    )
    bar.start_t -= time.monotonic() - began
    return bar

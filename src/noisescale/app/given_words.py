"""The words of the command line as they were given, before anything was added from the record of a run, or taken out for Hydra."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["given", "remember"]

_words: list[str] = []


def remember(words: Sequence[str]) -> None:
    """Keep the words of the command that begins."""
    _words[:] = words


def given() -> list[str]:
    """The words of this command, flags included."""
    return list(_words)

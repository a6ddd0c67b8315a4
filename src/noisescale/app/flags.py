"""Hydra's own flags, such as -m and --config-dir, wherever they stand on the command line. Does not import torch."""

from __future__ import annotations

from argparse import Action
from collections.abc import Iterable, Sequence

from hydra._internal.utils import get_args_parser

__all__ = ["flags_first"]


def flags_first(words: Sequence[str]) -> list[str]:
    """`epochs=1 -m batch=small,large` -> `-m epochs=1 batch=small,large`: argparse takes all other words only if they stand together.

    A flag keeps its value: `seed=1 --config-dir mine` -> `--config-dir mine seed=1`.
    """
    flags, others = _parted(words)
    return [word for flag in flags for word in flag] + others


def _parted(words: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The flags, each with its value if it has one, and all other words."""
    actions = [action for action in get_args_parser()._actions if action.option_strings]
    flags: list[list[str]] = []
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            others.append(word)
            continue
        flags.append([word])
        if left and _takes(actions, word, left[0]):
            flags[-1].append(left.pop(0))
    return flags, others


def _takes(actions: Iterable[Action], flag: str, following: str) -> bool:
    """Whether the word that follows a flag is its value."""
    if following.startswith("-"):
        return False
    named = [action for action in actions if flag in action.option_strings]
    if not named and flag.startswith("--"):  # argparse lets a long flag be shortened
        named = [action for action in actions if any(option.startswith(flag) for option in action.option_strings)]
    if len(named) != 1 or named[0].nargs == 0:
        return False
    return named[0].nargs != "?" or following in (named[0].choices or ())

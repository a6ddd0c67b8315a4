"""What a user types about classes of their own: found beside the project, and put into the form that Hydra needs. Does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["OWN_GROUPS", "forget_modules", "make_importable", "words_as_typed", "words_for_hydra"]

OWN_GROUPS = ("task", "model", "module", "data", "optimizer")
"""Groups with an option `own`, which has no keys but those of any class."""


def words_for_hydra(words: Sequence[str]) -> list[str]:
    """`model._target_=my.Net model.width=64` -> `model=own model._target_=my.Net ++model.width=64`.

    A class named on the command line has keys of its own, which conf/ cannot know: without this, those of the option that is the default
    would be passed to the class, and its own would have to be typed with a `+`. So a `_target_` chooses the option `own` unless the
    user names another one, and every key of that group is added.
    """
    keys = [word.partition("=")[0].lstrip("+") if "=" in word else "" for word in words]
    opened = {group for group in OWN_GROUPS if f"{group}._target_" in keys}
    named = set(keys)
    found: list[str] = []
    for word, key in zip(words, keys, strict=True):
        group = key.partition(".")[0]
        if key == f"{group}._target_" and group in opened:
            found += [word.lstrip("+")] if group in named else [f"{group}=own", word.lstrip("+")]
            named.add(group)
        elif "." in key and (group in opened or key.startswith("task.loss.")):
            found.append(f"++{word.lstrip('+')}")
        else:
            found.append(word)
    return found


def words_as_typed(words: Sequence[str]) -> list[str]:
    """The inverse of `words_for_hydra`: `model=own model._target_=my.Net ++model.width=64` -> `model._target_=my.Net model.width=64`."""
    opened = {group for group in OWN_GROUPS if any(word.startswith(f"{group}._target_=") for word in words)}
    found = [word for word in words if word not in {f"{group}=own" for group in opened}]
    return [
        word.removeprefix("++") if word.removeprefix("++").startswith((*(f"{group}." for group in opened), "task.loss.")) else word
        for word in found
    ]


def make_importable(folders: Iterable[Path]) -> None:
    """Let Python find modules in these folders, after all others, here and in the processes that this one starts."""
    for folder in folders:
        path = str(folder.resolve())
        if path not in sys.path:
            sys.path.append(path)
        known = os.environ.get("PYTHONPATH", "")
        if path not in known.split(os.pathsep):
            os.environ["PYTHONPATH"] = f"{known}{os.pathsep}{path}" if known else path


def forget_modules(folders: Iterable[Path]) -> None:
    """Let Python find no modules in these folders any more, and forget those that it has imported from there."""
    for folder in folders:
        path = str(folder.resolve())
        if path in sys.path:
            sys.path.remove(path)
        searched = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each != path]
        os.environ["PYTHONPATH"] = os.pathsep.join(searched)
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and Path(file).resolve().is_relative_to(folder.resolve()):
                del sys.modules[name]

"""Words that belong to another command: one line that names it, in place of an unknown key, or of a key without an effect."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from noisescale.app.choices import key_of
from noisescale.errors import ConfigError

__all__ = ["refuse_words_of_others"]

_GROUPS = {"branches": "branches", "range_test": "range_test", "recommend": "recommend", "claim": "reproduce", "curvature": "curvature"}
"""Group of keys -> the program that they are for."""

_KEYS = {"run": ("branches", "range_test"), "to": ("curvature",)}
"""Key of the command line -> the programs that it is for."""

_COMMANDS = ("train", "plan", "branches", "range_test", "recommend", "curvature")


def refuse_words_of_others(program: str, words: Sequence[str]) -> None:
    """Raise `ConfigError` for the first word that only other commands have a use for.

    Args:
        program: the name of this command, such as train.
        words: its words, as they were typed.
    """
    if program not in _COMMANDS:
        return
    for word in words:
        if "=" not in word or word.startswith("-"):
            continue
        key, value = key_of(word), word.partition("=")[2]
        of_key, of_group = _KEYS.get(key), _GROUPS.get(key.partition(".")[0])
        if of_key is not None and program not in of_key:
            instead = _instead(program, key, value)
            raise ConfigError(key, value, f"has no use in {program}.py; it is for {' and '.join(f'{name}.py' for name in of_key)}", instead)
        if of_key is None and of_group is not None and program != of_group:
            raise ConfigError(key, value, f"has no use in {program}.py", f"it is for python {of_group}.py {shlex.quote(word)}")


def _instead(program: str, key: str, value: str) -> str:
    if key != "run":
        return f"python curvature.py ckpt=outputs/train/<run> {shlex.join([f'{key}={value}'])}"
    if program == "curvature":
        return f"give {shlex.join([f'ckpt={value}'])}"
    return f"{shlex.join([f'resume={value}'])} goes on with a run" if program == "train" else "leave it out"

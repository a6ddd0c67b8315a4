"""Count the calls that change files, and die at one of them, as a process does that is killed: nothing is cleaned up after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from noisescale.execution import checkpoint_io

CALLS = ("link", "replace", "unlink", "fsync", "mkdir")
"""Functions of os through which checkpoints are saved; pathlib uses them, too."""


class Died(BaseException):
    """The process would be gone here."""


@contextmanager
def system_calls(before: Callable[[int, str], None] = lambda number, name: None) -> Iterator[list[str]]:
    """A list that gets the name of each call, and of each write into a checkpoint; `before` is called with its number and name."""
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            before(len(calls) - 1, name)
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        write: Any = checkpoint_io._write

        def in_two_parts(checkpoint: dict[str, Any], file: Any) -> None:
            file.write(b"PK\x03\x04")
            calls.append("write")
            before(len(calls) - 1, "write")
            file.seek(0)
            write(checkpoint, file)

        patch.setattr(checkpoint_io, "_write", in_two_parts)
        yield calls


@contextmanager
def dies_at(at: int) -> Iterator[None]:
    """Raise `Died` at call number `at` and at all later ones, so that no `except` or `finally` can change a file."""

    def die(number: int, name: str) -> None:
        if number >= at:
            raise Died(name)

    with system_calls(die):
        yield


@contextmanager
def killed_at(at: int) -> Iterator[None]:
    """Send SIGKILL to this process at call number `at`."""

    def die(number: int, name: str) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    with system_calls(die):
        yield

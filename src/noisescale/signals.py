"""Signals that ask a program to stop, as an exception: which they are, and handlers that put back what was there before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "Handlers", "Interrupted", "end_at_once", "foreign", "forget", "raised_at_once"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name))
"""The signals that ask for a stop: Ctrl-C, `kill`, a terminal that closes, and those with which clusters announce the end of a job.

SIGQUIT (Ctrl-\\) is left to the system, as a way to end a process that hangs and to get a core dump of it.
"""

_ended: list[str] = []


class Interrupted(SystemExit):
    """A signal has stopped the program, or another process of it has ended; the exit status is 128 + the number of the signal, or 1.

    Args:
        number: the signal; None if it is not because of a signal.
        reason: why, in words; empty for the name of the signal.
        saved: the checkpoint that was saved because of it, if any.
        again: whether it came while a stop was already under way, which ends the program at once.
    """

    def __init__(self, number: int | None, reason: str = "", *, saved: str | None = None, again: bool = False) -> None:
        super().__init__(1 if number is None else 128 + number)
        self.number, self.saved, self.again = number, saved, again
        self.reason = reason or (signal.Signals(number).name if number is not None else "interrupted")

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[Callable[..., Interrupted], tuple[()]]:
        return partial(Interrupted, self.number, self.reason, saved=self.saved, again=self.again), ()


class Handlers:
    """Handlers of `SIGNALS`, from `install` to `remove`.

    Only the main thread can install handlers; elsewhere nothing happens. A signal that is ignored stays ignored, as SIGHUP is under nohup.

    Args:
        receive: what is called with the number of a signal, in the main thread, between two steps of the interpreter.
    """

    def __init__(self, receive: Callable[[int], None]) -> None:
        self._receive = receive
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _ended:
            raise Interrupted(None, _ended[0])
        self._receive(number)

    @property
    def possible(self) -> bool:
        """Whether this thread can install handlers."""
        return threading.current_thread() is threading.main_thread()

    def install(self, over_foreign: bool = True) -> None:
        """Take the signals over from whoever handles them; those that have a `foreign` handler only if `over_foreign` is true."""
        if not self.possible:
            return
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before in (signal.SIG_IGN, None, self) or (not over_foreign and (isinstance(before, Handlers) or foreign(number))):
                continue
            self._before.setdefault(number, before)
            signal.signal(number, self)

    def remove(self) -> None:
        """Put back what was there before, unless someone else has taken over since."""
        if not self.possible:
            return
        for number, before in self._before.items():
            if signal.getsignal(number) is self:
                signal.signal(number, before)
        self._before = {}


def foreign(number: int) -> Callable[[int, FrameType | None], Any] | None:
    """The handler that a library or the user has set for a signal; None if it is the system's, Python's, or one of `Handlers`."""
    handler = signal.getsignal(number)
    if not callable(handler) or isinstance(handler, (Handlers, signal.Handlers)) or handler is signal.default_int_handler:
        return None
    return handler


@contextmanager
def raised_at_once() -> Iterator[None]:
    """Raise `Interrupted` for a signal that arrives inside, where there is nothing to be finished first.

    A signal for which a library or the user has set a handler is left to that handler.
    """
    handlers = Handlers(_raise)
    handlers.install(over_foreign=False)
    try:
        yield
    finally:
        handlers.remove()


def end_at_once(reason: str) -> None:
    """From another thread: let the main thread raise `Interrupted` with this reason as soon as it is not inside a call to C."""
    _ended.append(reason)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def forget() -> None:
    """Undo `end_at_once`, so that another run of this process is not ended for the reason of this one."""
    _ended.clear()


def _raise(number: int) -> None:
    raise Interrupted(number)

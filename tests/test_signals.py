"""Handlers of signals: what they take over, what they leave alone, and what they put back."""

from __future__ import annotations

import pickle
import signal
import threading

import pytest

from noisescale.signals import SIGNALS, Handlers, Interrupted, end_at_once, foreign, forget, raised_at_once

pytestmark = pytest.mark.usefixtures("default_handlers")


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_exception_with_the_status_that_a_shell_expects(number: signal.Signals) -> None:
    before = handlers()
    with pytest.raises(SystemExit, match=number.name) as caught, raised_at_once():
        signal.raise_signal(number)
    assert caught.value.code == 128 + number
    assert handlers() == before


def test_what_is_ignored_stays_ignored() -> None:
    """As SIGHUP is under nohup, and SIGINT in the background jobs of a shell script."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    taken = Handlers(lambda number: pytest.fail("handled"))
    taken.install()
    signal.raise_signal(signal.SIGHUP)
    with raised_at_once():
        signal.raise_signal(signal.SIGHUP)
    taken.remove()


def test_the_handler_of_a_library_is_left_alone_where_nothing_has_to_be_finished() -> None:
    got: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: got.append(number))
    assert foreign(signal.SIGUSR2) is signal.getsignal(signal.SIGUSR2)
    with raised_at_once():
        signal.raise_signal(signal.SIGUSR2)
    assert got == [signal.SIGUSR2]
    assert not any(foreign(number) for number in SIGNALS if number != signal.SIGUSR2)


def test_a_handler_that_someone_has_set_since_is_not_replaced() -> None:
    taken = Handlers(lambda number: None)
    taken.install()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    taken.remove()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_another_thread_handles_nothing_and_is_not_disturbed() -> None:
    before, seen = handlers(), []

    def work() -> None:
        with raised_at_once():
            taken = Handlers(lambda number: None)
            taken.install()
            seen.append(handlers())
            taken.remove()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_another_thread_can_end_what_the_main_thread_does() -> None:
    threading.Timer(0.2, end_at_once, ["the end of process 1"]).start()
    with pytest.raises(Interrupted, match="the end of process 1") as caught, raised_at_once():
        threading.Event().wait(30.0)
    forget()
    assert caught.value.code == 1
    with pytest.raises(Interrupted, match="SIGTERM"), raised_at_once():
        signal.raise_signal(signal.SIGTERM)


def test_an_interruption_travels_between_processes() -> None:
    sent = Interrupted(signal.SIGTERM, "a reason", saved="a.ckpt", again=True)
    got = pickle.loads(pickle.dumps(sent))
    assert (type(got), got.code, vars(got)) == (Interrupted, 143, vars(sent))

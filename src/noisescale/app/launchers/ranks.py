"""Run one training in several processes, one per device: started here on this machine, or by torchrun or srun on any number of them.

Lightning's own launcher starts the other ranks with the command line of this process; in a sweep each of them would start the whole sweep
again. Here they are started from the composed config of the run, so a run is the same alone and in a sweep.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noisescale.app.launchers.world import outer_world, tell_others, words_of_rank
from noisescale.signals import Interrupted, end_at_once, forget

__all__ = ["end_with", "is_child", "is_first", "lost_process", "other_ranks"]

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_PARENT = "NOISESCALE_RANK_0"
_GRACE = 5.0  # seconds that a process has to end by itself before it is ended
_children: list[subprocess.Popen[bytes]] = []  # of the run that this process is rank 0 of


def is_child() -> bool:
    """Whether this process is a rank other than 0."""
    return not is_first()


def is_first() -> bool:
    """Whether this process is rank 0, which speaks for all; true as well while the others run beside it."""
    world = outer_world()
    return world.rank == 0 if world is not None else os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def other_ranks(count: int, script: Path, record: Path, timeout: float) -> Iterator[None]:
    """Run ranks 1 to count - 1 of a run beside this process, which is rank 0.

    In an outer world, the other ranks are there already, and are told to begin. It does nothing for one process, and in a rank other than
    0. If a rank fails, this process raises `Interrupted`, so that it does not wait forever. At the end no process of the run is left, the
    process group is destroyed and the environment is restored.

    Args:
        count: number of processes, including this one.
        script: the program to start, such as train.py.
        record: the folder with the recorded config of the run.
        timeout: seconds that the others have to end when this one is done.
    """
    if outer_world() is not None:
        if is_first():
            tell_others(record)
        try:
            yield
        finally:
            _destroy_group()
        return
    if count == 1 or is_child():
        if _PARENT in os.environ:
            end_with(int(os.environ[_PARENT]), "error: process 0 of this run has ended, so this one ends, too")
        yield
        return
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()), NODE_RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(count))
    command = [sys.executable, str(script), *words_of_rank(record.resolve())]
    # without HYDRA_FULL_ERROR, which the command sets for itself, and by which it would take a traceback to be wanted
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"} | {_PARENT: str(os.getpid())}
    _children[:] = [subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}) for rank in range(1, count)]
    finished = threading.Event()
    threading.Thread(target=_watch, args=(list(_children), finished), daemon=True).start()
    try:
        yield
        for child in _children:
            with suppress(subprocess.TimeoutExpired):  # it is ended below
                child.wait(timeout)
    finally:
        finished.set()
        forget()
        _end(_children)
        _children.clear()
        _destroy_group()
        for name in _VARIABLES:
            os.environ.pop(name, None)


def lost_process(error: Exception) -> Interrupted | None:
    """What has become of another process of this run, if that is why `error` was raised; None if it is an error of this process.

    When a process ends, the others usually learn of it as an error of the connection, which says nothing of the cause.
    """
    disconnected = _is_disconnection(error)
    if disconnected:
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and not _failed(_children):  # it takes a moment until the system reports its end
            time.sleep(0.05)
    if failed := _failed(_children):
        return Interrupted(None, failed)
    if not disconnected:
        return None
    silent = "imed out" in str(error) or "timeout" in str(error)
    return Interrupted(None, "a process that did not answer within rank_timeout" if silent else "the loss of another process")


def _is_disconnection(error: Exception) -> bool:
    from torch import distributed

    if not distributed.is_available():
        return False
    words = (
        *("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe"),
        *("Timed out waiting", "Application timeout caused pair closure"),  # the second of several operations that wait has the latter
    )
    said = distributed.is_initialized() and isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, distributed.DistError)


def _failed(children: list[subprocess.Popen[bytes]]) -> str:
    """Which process has ended with an error, and how; empty if none has."""
    for rank, child in enumerate(children, 1):
        status = child.poll()
        if status in (None, 0):
            continue
        assert status is not None
        number = -status if status < 0 else status - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else ""
        how = f"was ended by {name}" if name else f"has failed (status {status}; see its message above)"
        return f"process {rank} of {len(children) + 1}, which {how}"
    return ""


def _watch(children: list[subprocess.Popen[bytes]], finished: threading.Event) -> None:
    while not finished.wait(0.5):
        if failed := _failed(children):
            if finished.wait(2 * _GRACE):  # rank 0 usually fails for the same reason, with a better message
                return
            end_at_once(failed)
            if not finished.wait(4 * _GRACE):  # it is blocked in a collective operation, where signals are not handled
                print(f"error: interrupted by {failed}", file=sys.stderr, flush=True)
                _end(children)
                os._exit(1)
            return


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """Let no process be left: each gets SIGTERM, and SIGKILL if it has not ended in time, as one that is stopped (SIGSTOP) cannot."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _GRACE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_with(parent: int, words: str = "") -> None:
    """End this process within a second of the end of its parent, and print `words`; otherwise it could wait in a collective operation."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if words:
            print(words, file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _destroy_group() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()

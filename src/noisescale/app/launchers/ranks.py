"""Run one training in several processes on this machine, one per device.

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
from contextlib import contextmanager
from pathlib import Path

__all__ = ["end_with", "is_child", "is_first", "other_ranks"]

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_PARENT = "NOISESCALE_RANK_0"


def is_child() -> bool:
    """Whether this process is a rank other than 0, or was started by a cluster's launcher."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is rank 0, which speaks for all; true as well while the others run beside it."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def other_ranks(count: int, script: Path, run_dir: Path, config: Path) -> Iterator[None]:
    """Run ranks 1 to count - 1 of a run beside this process, which is rank 0.

    It does nothing for one process, and in a process for which `is_child` is true. If a rank fails, this process is interrupted, so
    that it does not wait forever. At the end the process group is destroyed and the environment is restored.

    Args:
        count: number of processes, including this one.
        script: the program to start, such as train.py.
        run_dir: the folder of the run.
        config: the folder in it with the recorded config of the run.
    """
    if count == 1 or is_child():
        if _PARENT in os.environ:
            end_with(int(os.environ[_PARENT]))
        yield
        return
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()), NODE_RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(count))
    command = [sys.executable, str(script), "--config-path", str(config.resolve()), "--config-name", "config"]
    command += [f"hydra.run.dir={_quoted(run_dir.resolve())}", "hydra.output_subdir=null"]
    command += ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    environment = {**os.environ, _PARENT: str(os.getpid())}
    children = [subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}) for rank in range(1, count)]
    finished = threading.Event()
    threading.Thread(target=_watch, args=(children, finished), daemon=True).start()
    try:
        yield
        for child in children:
            child.wait()
    finally:
        finished.set()
        for child in children:
            if child.poll() is None:
                child.terminate()
        _destroy_group()
        for name in _VARIABLES:
            os.environ.pop(name, None)


def _watch(children: list[subprocess.Popen[bytes]], finished: threading.Event) -> None:
    while not finished.wait(1.0):
        if any(child.poll() not in (None, 0) for child in children):
            if not finished.wait(10.0):  # rank 0 usually fails for the same reason, with a better message
                print("error: another process of this run failed; see its message above", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGINT)
                if not finished.wait(20.0):  # it is blocked in a collective operation, where signals are not handled
                    os._exit(1)
            return


def end_with(parent: int) -> None:
    """End this process within a second of the end of its parent; otherwise it could wait half an hour in a collective operation."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"


def _destroy_group() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()

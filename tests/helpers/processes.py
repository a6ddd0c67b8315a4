"""Run Python in a process of its own, as a user does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.helpers.repository import REPOSITORY

PATIENCE = 300.0
"""Seconds after which a process counts as hanging. Nothing should take nearly as long on any machine."""

LEFT_BEHIND = (
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"),
    *("HYDRA_FULL_ERROR", "NOISESCALE_FULL_ERROR"),
)
"""Variables that an earlier training in this process, or the user's shell, may have set."""

NOTHING: Mapping[str, str] = MappingProxyType({})


def environment_with(changes: Mapping[str, str]) -> dict[str, str]:
    """This environment with `changes`, with one thread, and with the package and the test helpers of this checkout first on the path."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_BEHIND}
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **changes}


def python(*words: str, cwd: Path = REPOSITORY, environment: Mapping[str, str] = NOTHING) -> subprocess.CompletedProcess[str]:
    """Run `ENVIRONMENT python WORDS` in `cwd` to its end; returns exit status, stdout and stderr, even if it fails."""
    command, variables = [sys.executable, *words], environment_with(environment)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, env=variables, check=False)


def started(*words: str, out: int = subprocess.DEVNULL, environment: Mapping[str, str] = NOTHING) -> subprocess.Popen[str]:
    """Start the same beside this process, as the leader of a process group that signals can be sent to; `out=PIPE` keeps stdout."""
    command, variables = [sys.executable, *words], environment_with(environment)
    return subprocess.Popen(
        command,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=variables,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored if the tests run in the background
    )


def wait_until(condition: Callable[[], object], running: subprocess.Popen[str]) -> None:
    """Wait until `condition` holds; fail if the process ends before that."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def results_of_ranks(module: str, jobs: Sequence[Mapping[str, Any]], world: int) -> list[list[dict[str, Any]]]:
    """What `python -m MODULE JOBS` prints in each of `world` connected processes: a line `RESULT {...}` for each job; job by job."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    command = ["-m", module, json.dumps(list(jobs))]
    ranks = [
        started(*command, out=subprocess.PIPE, environment={**place, "LOCAL_RANK": str(rank)} if world > 1 else {}) for rank in range(world)
    ]
    with ThreadPoolExecutor(world) as readers:  # all at once, because a rank whose pipe is full waits, and the others wait for it
        outputs = list(readers.map(lambda process: process.communicate(timeout=PATIENCE), ranks))
    results = []
    for out, err in outputs:
        lines = [json.loads(line.removeprefix("RESULT ")) for line in out.splitlines() if line.startswith("RESULT ")]
        assert len(lines) == len(jobs), err[-3000:]
        results.append(lines)
    return [list(of_job) for of_job in zip(*results, strict=True)]

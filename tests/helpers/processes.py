"""Python in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.helpers.repository import REPOSITORY

PATIENCE = 300.0
"""Seconds after which a process is taken to hang. Nothing is meant to take nearly as long, on any machine."""

LEFT_BEHIND = (
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"),
    *("HYDRA_FULL_ERROR", "NOISESCALE_FULL_ERROR"),
)
"""Variables that an earlier training in this process, or the user's shell, may have set."""

NOTHING: Mapping[str, str] = MappingProxyType({})


def environment_with(changes: Mapping[str, str]) -> dict[str, str]:
    """This environment and `changes`, with one thread, and with the package and the helpers of this very checkout found first."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_BEHIND}
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **changes}


def python(*words: str, cwd: Path = REPOSITORY, environment: Mapping[str, str] = NOTHING) -> subprocess.CompletedProcess[str]:
    """`ENVIRONMENT python WORDS` in `cwd`, to its end: exit status, stdout and stderr, whatever becomes of it."""
    command, variables = [sys.executable, *words], environment_with(environment)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, env=variables, check=False)


def started(*words: str, out: int = subprocess.DEVNULL, environment: Mapping[str, str] = NOTHING) -> subprocess.Popen[str]:
    """The same beside this process, at the head of a group of processes that signals can be sent to; stdout is kept with `out=PIPE`."""
    command, variables = [sys.executable, *words], environment_with(environment)
    return subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=variables, start_new_session=True)


def wait_until(condition: Callable[[], object], running: subprocess.Popen[str]) -> None:
    """Until `condition` holds, while the process runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)

"""Seconds from a command to its answer and to the first update, compared with the imports that no training can do without."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from benchmarks.measure import ROOT, Comparison, Wanted

__all__ = ["comparisons", "environment", "scratch"]

TORCH, LIGHTNING = "import torch", "import torch, pytorch_lightning"
HELP, CONFIG, MISSPELT = "train.py --help", "train.py --cfg job", "train.py scheduler=cosin"
FIRST, LEAN = "first update, train.py", "first update, callbacks=light logger=csv-only"
COMPLETION = "completion of scheduler=co"
ANSWERS = (HELP, CONFIG, MISSPELT, COMPLETION)
ANSWER = 0.8
SLOW, SHARE = 2.0, 0.4
"""If `import torch` alone takes longer than SLOW seconds, an answer may take at most this share of its time."""


@cache
def scratch() -> Path:
    """A folder for all commands, which is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="noisescale-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def environment() -> dict[str, str]:
    """Environment variables for one thread, and for byte code that is cached, as it is for users, in a separate folder."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(scratch() / "bytecode"), "HYDRA_FULL_ERROR": "0"}


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Run every command once per round, and once before, so that its byte code is cached and its files are in memory."""
    train = str(ROOT / "train.py")
    commands = {
        TORCH: partial(_import, TORCH),
        LIGHTNING: partial(_import, LIGHTNING),
        HELP: partial(_answer, [train, "--help"], "scheduler:"),
        CONFIG: partial(_answer, [train, "--cfg", "job"], "max_micro_batch_size:"),
        MISSPELT: partial(_answer, [train, "scheduler=cosin"], "did you mean cosine?", status=2),
        COMPLETION: partial(_answer, [train, "-sc", "query=bash"], "scheduler=cosine_restarts", typed="python train.py scheduler=co"),
        FIRST: partial(_first_update, []),
        LEAN: partial(_first_update, ["callbacks=light", "logger=csv-only"]),
    }
    if quick:
        commands = {name: commands[name] for name in (HELP, MISSPELT, COMPLETION)}
    share = SHARE if not quick and min(_import(TORCH), _import(TORCH)) > SLOW else None  # twice: the second has cached byte code
    ratios = [
        *(Wanted(name, TORCH, at_most=share) for name in ANSWERS),
        *(Wanted(name, LIGHTNING, at_most=1.5) for name in (FIRST, LEAN)),
    ]
    yield Comparison(
        "start-up",
        commands,
        [ratio for ratio in ratios if ratio.to in commands],
        per="command",
        unit="s",
        once_before=True,
        limits={name: ANSWER for name in ANSWERS if name in commands},
    )


def _answer(arguments: list[str], says: str, status: int = 0, typed: str = "") -> float:
    """Seconds until the command has ended; it must have printed `says`."""
    started = time.perf_counter()
    shell = {**environment(), "COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    done = subprocess.run([sys.executable, *arguments], env=shell, cwd=scratch(), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != status or says not in done.stdout + done.stderr:
        raise RuntimeError(f"{' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds


def _import(statement: str) -> float:
    """Seconds until the modules are imported. Shutting the process down is slow and is not counted, as for the first update."""
    return _until(["-c", f"import os, sys, time; {statement}; open(sys.argv[1], 'w').write(repr(time.time())); os._exit(0)"], "{}")


def _first_update(options: list[str]) -> float:
    first = "+callbacks.first"
    return _until(
        [str(ROOT / "train.py"), *options, "threads=1", f"{first}._target_=benchmarks.first_update.FirstUpdate"], f"{first}.path={{}}"
    )


def _until(arguments: list[str], file: str) -> float:
    """Seconds until the process has written the time to the file whose path it gets in the argument `file`."""
    end = scratch() / "time"
    end.unlink(missing_ok=True)
    started = time.time()
    _answer([*arguments, file.format(end)], "")
    return float(end.read_text()) - started

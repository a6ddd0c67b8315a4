"""The machine in words, so that seconds can be read."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

__all__ = ["cores", "machine"]


def machine(accelerator: str = "") -> str:
    """The processor, how many cores this process may use, and the accelerator, if any: `Intel(R) Xeon(R) Processor, 2 cores`."""
    return ", ".join([_processor(), f"{cores()} core{'s' if cores() > 1 else ''}", *([accelerator] if accelerator else [])])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _processor() -> str:
    try:  # platform.processor() is empty on most Linux systems
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()

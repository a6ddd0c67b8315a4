"""What a run says when a signal, or the end of another of its processes, has interrupted it, and the command that resumes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from noisescale.app.config import in_sweep, output_dir
from noisescale.app.resume import resume_command, short_path
from noisescale.signals import Interrupted
from noisescale.studies.runs import read_run

__all__ = ["RunInterrupted", "say_how_to_resume"]


class RunInterrupted(KeyboardInterrupt):
    """A run was interrupted; its files have been written, and it has said so.

    Args:
        status: the exit status, 128 + the number of the signal; 1 if another process of the run has ended.
        reason: why, in words.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason

    @property
    def by_signal(self) -> bool:
        """Whether a signal asked this process to end, and with it the sweep that the run belongs to."""
        return self.status > 128


def say_how_to_resume(interrupted: Interrupted, reason: str) -> None:
    """Print on stderr why the run ended, what was saved, and the command that resumes it.

    Args:
        interrupted: what has ended it.
        reason: the same in words, with where the run was.
    """
    found = read_run(output_dir())
    checkpoint = Path(interrupted.saved) if interrupted.saved else found.checkpoint if found is not None else None
    where = f"interrupted by a second {reason}, without saving" if interrupted.again else f"interrupted by {reason}"
    run = f" (run: {os.path.relpath(output_dir())})" if in_sweep() else ""
    if checkpoint is None or not checkpoint.exists():
        print(f"error: {where}{run}; there is no checkpoint", file=sys.stderr, flush=True)
        return
    state = "saved" if interrupted.saved else "the last checkpoint is"
    print(f"error: {where}{run}; {state} {short_path(checkpoint)}; to resume:\n{resume_command(output_dir())}", file=sys.stderr, flush=True)

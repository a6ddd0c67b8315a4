"""What a run says when a signal, or the end of another of its processes, has interrupted it, and the command that resumes it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from noisescale.app.config import in_sweep, output_dir, typed
from noisescale.app.flags import flags_of
from noisescale.signals import Interrupted

__all__ = ["RunInterrupted", "resume_command", "say_how_to_resume"]


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


def resume_command(checkpoint: Path) -> str:
    """The command that resumes this run from a checkpoint, in the same folder; to be typed in the folder where the run was started.

    In Jupyter it is the call of `noisescale.app.notebook.run`.
    """
    words = [word for word in typed() if not word.startswith(("ckpt_path=", "hydra.run.dir=", "hydra.sweep."))]
    words += [f"ckpt_path={_value(_short(checkpoint))}", f"hydra.run.dir={_value(_short(output_dir()))}"]
    if "ipykernel" in sys.modules:
        return f"run({', '.join(map(repr, words))})"
    return shlex.join([*_starter(), sys.argv[0], *flags_of(sys.argv[1:], without=("-m", "--multirun")), *words])


def say_how_to_resume(interrupted: Interrupted, reason: str) -> None:
    """Print on stderr why the run ended, what was saved, and the command that resumes it.

    Args:
        interrupted: what has ended it.
        reason: the same in words, with where the run was.
    """
    checkpoint = Path(interrupted.saved) if interrupted.saved else output_dir() / "checkpoints" / "last.ckpt"
    where = f"interrupted by a second {reason}, without saving" if interrupted.again else f"interrupted by {reason}"
    run = f" (run: {os.path.relpath(output_dir())})" if in_sweep() else ""
    if not checkpoint.exists():
        print(f"error: {where}{run}; there is no checkpoint", file=sys.stderr, flush=True)
        return
    state = "saved" if interrupted.saved else "the last checkpoint is"
    print(f"error: {where}{run}; {state} {_short(checkpoint)}; to resume:\n{resume_command(checkpoint)}", file=sys.stderr, flush=True)


def _starter() -> list[str]:
    """What the user typed before the program."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here, nodes = os.environ.get("LOCAL_WORLD_SIZE", "1"), os.environ.get("GROUP_WORLD_SIZE", "1")
        return ["torchrun", *(["--nnodes", nodes] if nodes != "1" else []), "--nproc-per-node", here]
    return ["srun", "python"] if "SLURM_STEP_NUM_TASKS" in os.environ else ["python"]


def _short(path: Path) -> str:
    """The shorter of the path and the path from here."""
    relative = os.path.relpath(path)
    return min(relative, str(path), key=len) if not relative.startswith("..") else str(path)


def _value(text: str) -> str:
    """A value as Hydra reads it."""
    if re.fullmatch(r"[\w./+-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'") if "'" in text else text
    return f"'{escaped}'"

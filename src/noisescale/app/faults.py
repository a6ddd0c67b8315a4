"""What the machine does to a run, such as a full disk: one line with the file, what is kept, and how to go on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

from noisescale.app.config import output_dir
from noisescale.app.launchers.ranks import is_first
from noisescale.app.resume import repeat_command, resume_command, short_path
from noisescale.errors import ConfigError
from noisescale.studies.runs import read_run

if TYPE_CHECKING:
    from noisescale.execution.out_of_memory import MemoryFault

__all__ = ["RunFailed", "failure_of", "quiet_threads"]

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "raise the limit on the size of a file, see ulimit -f",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EMFILE: "raise the limit on open files, see ulimit -n, or lower data.num_workers",
    errno.ENFILE: "close files of other programs",
    errno.EAGAIN: "raise the limit on processes, see ulimit -u, or lower data.num_workers",
    errno.ECHILD: "memory may have run out: lower data.num_workers",
    errno.ENOMEM: "lower max_micro_batch_size, which does not change the result, or data.num_workers",
}
"""What helps against an error of the system."""

_NO_FILE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
"""Errors of the process rather than of a file."""

_IN_WORDS = {
    "No space left on device": errno.ENOSPC,
    "Too many open files": errno.EMFILE,
    "can't start new thread": errno.EAGAIN,
    "PytorchStreamWriter failed": errno.EIO,
    "an't allocate memory": errno.ENOMEM,
    "annot allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "DataLoader worker (pid": errno.ECHILD,
}
"""What torch says where Python would raise an OSError."""


class RunFailed(Exception):
    """A run that could not go on, through no fault of its config; the message is a line for users to read."""


def failure_of(error: BaseException) -> RunFailed | None:
    """An error of the system, of a file or of memory, as a line: what failed, what is kept, how to go on; None for any other error."""
    if isinstance(error, RunFailed):
        return error
    if isinstance(error, ConfigError):
        return None
    if (fault := getattr(error, "memory_fault", None)) is not None:  # from `execution.out_of_memory`, which imports torch
        return RunFailed(_out_of_memory(fault))
    if isinstance(error, OSError):
        number, what = error.errno, _of_a_file(error)
    else:
        number = (
            errno.ENOMEM if isinstance(error, MemoryError) else next((_IN_WORDS[words] for words in _IN_WORDS if words in str(error)), None)
        )
        if number is None or not isinstance(error, (RuntimeError, MemoryError)):
            return None
        what = "not enough memory" if number == errno.ENOMEM else _last_line(error).partition(". ")[0]
    return RunFailed("; ".join(filter(None, (what, _kept(), _remedy(number), _how_to_go_on()))))


def _out_of_memory(fault: MemoryFault) -> str:
    """`not enough memory at update 12, in a micro-batch of 16 examples (CUDA out of memory); ...; to go on with half of it: python ...`."""
    what = f"not enough memory {fault.in_words()} ({fault.reason})"
    if not is_first():
        return f"process {fault.process}: {what}"
    if fault.process:
        what = f"process {fault.process}: {what}"
    run, on = output_dir(), _how_to_go_on()
    saved = f"saved {short_path(Path(fault.saved))}" if fault.saved else ""
    match fault.place:
        case "micro-batch" if fault.half is not None:
            half = resume_command(run, max_micro_batch_size=fault.half)
            begin = repeat_command(run, max_micro_batch_size=fault.half)
            on = f"go on with half the micro-batch: {half}" if on else f"begin again with half the micro-batch: {begin}"
            remedy = ""
        case "micro-batch":
            remedy = "a smaller micro-batch is not possible: use a smaller model, or another device"
        case "optimizer step":
            remedy = "it may have changed a part of the weights, so nothing was saved; optimizer.foreach=false needs less memory"
        case "validation":
            remedy = "lower data.eval_batch_size, which does not change the result"
        case _:
            remedy = REMEDIES[errno.ENOMEM]
    return "; ".join(filter(None, (what, saved or _kept(), remedy, on)))


def _of_a_file(error: OSError) -> str:
    """`outputs/x/steps.csv: cannot be written (No space left on device)`."""
    reason, run = error.strerror or _last_line(error), output_dir().absolute()
    if error.errno == errno.EPIPE:
        return f"the output cannot be printed ({reason})"
    if error.errno in _NO_FILE and error.filename is None:
        return reason
    path = Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, (str, bytes)) else _held_by(error, run)
    if path is None:
        return f"a file cannot be written ({reason})" if error.errno in REMEDIES else reason
    if path.suffix == ".part":
        path = path.with_name(path.name.removeprefix(".").removesuffix(".part"))
    return f"{os.path.relpath(path)}: cannot be {'written' if path.is_relative_to(run) else 'used'} ({reason})"


def _held_by(error: OSError, run: Path) -> Path | None:
    """The file of the run that was being written, where the system does not say which: the innermost variable that holds one.

    A full disk shows when bytes are written, and the error of that has no name of a file, whoever writes it: this package, Lightning,
    fsspec or TensorBoard.
    """
    found = None
    for frame, _ in walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            name = value if isinstance(value, (str, bytes, Path)) else getattr(value, "name", None) or getattr(value, "path", None)
            if isinstance(name, (str, bytes, Path)) and len(text := os.fsdecode(name)) < 4096 and "\n" not in text:
                path = Path(text).absolute()
                if path != run and path.is_relative_to(run) and not path.is_dir():
                    found = path
    return found


def _remedy(number: int | None) -> str:
    if number in (errno.ENOENT, errno.ENOTDIR) and not (output_dir() / ".hydra").is_dir():
        return "the folder of the run was removed or moved"
    return REMEDIES.get(number or 0, "")


def _last_line(error: BaseException) -> str:
    """What an error says; one that comes from another process has a whole traceback in its message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join((lines[-1] if "Traceback" in str(error) else " ".join(lines)).split()).removesuffix(".")


def _kept() -> str:
    files = [f"checkpoints/{name}.ckpt" for name in ("last", "best")] + ["steps.csv", "epochs.csv"]
    kept = [file for file in files if _is_file(output_dir() / file)]
    return f"kept: {', '.join(kept)}" if kept else ""


def _how_to_go_on() -> str:
    with suppress(OSError):  # the folder of the run may be what has failed
        run = read_run(output_dir())
        if run is not None and run.checkpoint is not None:
            return f"go on with {resume_command(output_dir())}"
    return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def quiet_threads() -> Iterator[None]:
    """No traceback of a thread that could not write a file: TensorBoard's thread hands its error to the training, which reports it."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs, /) -> None:
        if not isinstance(failed.exc_value, OSError):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before

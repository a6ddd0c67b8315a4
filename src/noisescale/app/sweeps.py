"""A sweep: what distinguishes each of its runs from the others, and the table of all runs at its end.

The folders of its runs are noted in a folder of this sweep, and the table is made from the files that are found there. That folder and the
command line are in an environment variable, which the processes of every launcher inherit.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from noisescale.app.choices import key_of, overrides
from noisescale.app.commit import commit
from noisescale.app.config import in_sweep, output_dir, typed
from noisescale.app.launchers.ranks import is_first
from noisescale.app.messages import INPUT_ERRORS, line, say
from noisescale.app.own_words import words_as_typed
from noisescale.app.requeued import cluster_job
from noisescale.files import write_atomically
from noisescale.studies.runs import STARTED, continues, is_choice, read_run
from noisescale.studies.table import print_runs

__all__ = ["RunDied", "announce", "as_death", "in_short", "leave_ending", "noted_runs", "recorded_run", "table_at_the_end", "what_differs"]

_SWEEP = "NOISESCALE_SWEEP"


class RunDied(Exception):
    """The process of a run was killed, which has been said and noted; the sweep continues, and fails at its end."""


def as_death(error: Exception) -> Exception:
    """`RunDied`, after a line that says so, for submitit's error of a job that was killed or cancelled; any other error itself."""
    if not type(error).__module__.startswith("submitit."):
        return error
    say(f"a job of submitit has failed; the others go on, and the same command finishes those that have ended ({_first_line(error)})")
    return RunDied(str(error))


def what_differs() -> str:
    """The words that the sweep varies, as they are in this run: `scheduler=step batch=small`; all words, if it varies none."""
    return in_short([word for word in overrides() if not continues(word, output_dir())]) if in_sweep() else " ".join(typed())


def in_short(words: Sequence[str]) -> str:
    """Those words of a run that the sweep varies; all of them, if it varies none."""
    return " ".join(f"{key}={value}" for key, value in _varied(words).items()) or " ".join(words_as_typed(words))


@contextmanager
def noted_runs(typed: Sequence[str]) -> Iterator[Path]:
    """A folder in which the folders of the runs are noted that are carried out inside, here and in other processes.

    Args:
        typed: the words of the command, which tell what it varies.
    """
    with tempfile.TemporaryDirectory(prefix="noisescale-sweep-") as folder:
        os.environ[_SWEEP] = json.dumps({"folders": folder, "typed": [*typed]})
        try:
            yield Path(folder)
        finally:
            os.environ.pop(_SWEEP, None)


@contextmanager
def table_at_the_end() -> Iterator[None]:
    """Print a table of the runs that were carried out inside, if they were those of a sweep, whatever became of them."""
    with noted_runs(sys.argv[1:]) as folder:
        try:
            yield
        finally:
            noted = sorted(folder.iterdir())
            folders = list(dict.fromkeys(Path(file.read_text()) for file in noted))
            found = [run for run in map(read_run, folders) if run is not None]
            if found:
                names = [run.folder.name for run in found]
                print_runs(found, names, [_varied(run.overrides or ()) for run in found])
                print(os.path.relpath(found[0].folder.parent), flush=True)


def announce(folders: Iterable[Path | None]) -> None:
    """Note the folders of runs that belong to this sweep, in their order, even those that are kept and not carried out."""
    if _SWEEP in os.environ:
        noted = Path(json.loads(os.environ[_SWEEP])["folders"])
        for number, folder in enumerate(folders, start=len(os.listdir(noted))):
            if folder is not None:
                (noted / f"{number:08}").write_text(str(folder.resolve()))


@contextmanager
def recorded_run(goes_on: bool = False) -> Iterator[None]:
    """Leave in the folder of the run that is carried out inside which commit began it and, if it has no results, how it ended.

    A run that goes on (`goes_on`) stays known by the words with which it began, unless words were added that make it another one.
    """
    if not is_first():
        yield
        return
    folder = output_dir()
    if in_sweep():
        _note_one_more(folder)
    before, results = _ending_in(folder), _results_of(folder)
    words = _words_of(before) if goes_on else None
    added = {*overrides()} - {*words} if words is not None else ()
    if words is not None and any(is_choice(key_of(word)) and not continues(word, folder) and key_of(word) not in SAME for word in added):
        words = [*words, CHANGED]
    leave_ending(folder, "started", words=words)
    try:
        yield
    except INPUT_ERRORS as error:
        if before is None:
            leave_ending(folder, "refused", line(error))
        else:  # what is refused changes nothing of the run that is there
            _leave_as_it_was(folder, before)
        raise
    except Exception as error:
        leave_ending(folder, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}", words)
        raise
    except BaseException:
        if before is not None and goes_on and _results_of(folder) == results:  # nothing was trained
            _leave_as_it_was(folder, before)
        else:
            leave_ending(folder, "interrupted", "a signal", words)
        raise


def _ending_in(folder: Path) -> str | None:
    """What an earlier run has noted in its folder; None if there is none."""
    try:
        return (folder / STARTED).read_text()
    except (OSError, ValueError):
        return None


def _leave_as_it_was(folder: Path, before: str) -> None:
    with suppress(OSError):
        write_atomically(folder / STARTED, before, durable=False)


def _results_of(folder: Path) -> tuple[int, int] | None:
    """What tells one results.json from another; None if there is none."""
    try:
        found = (folder / "results.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


SAME = ("max_micro_batch_size",)
"""Keys that may change in a run that goes on, as after an error for lack of memory, without making it another one."""

CHANGED = "resumed=with_other_words"
"""Stands among the words of a run that was resumed with others than it had, so that no sweep takes it for one of its own."""


def _words_of(before: str | None) -> list[str] | None:
    """The words in such a note; None if there are none."""
    try:
        words = json.loads(before or "null")["words"]
    except (ValueError, TypeError, KeyError):
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def leave_ending(folder: Path, status: str, reason: str = "", words: Iterable[str] | None = None) -> None:
    """Note how a run has ended that leaves no results: `failed`, `refused` or `interrupted`; `started` when it begins."""
    ending = {
        "status": status,
        "reason": reason,
        "commit": commit(),
        "job": cluster_job(),
        "words": overrides() if words is None else [*words],
    }
    with suppress(OSError):  # nothing depends on it
        write_atomically(folder / STARTED, json.dumps(ending, indent=2) + "\n", durable=False)


def _note_one_more(folder: Path) -> None:
    """Note the folder of a run that another sweeper than ours has chosen, or a pattern of the user's."""
    noted = Path(json.loads(os.environ.get(_SWEEP, "{}")).get("folders", ""))
    with suppress(OSError):  # the folder of notes is on another machine
        (noted / f"~{HydraConfig.get().job.num:08}").write_text(str(folder.resolve()))


def _varied(words: Iterable[str]) -> dict[str, str]:
    """Key -> value of those of a run's overrides that were not typed with a single value for all runs."""
    if _SWEEP not in os.environ:
        return {}
    fixed: set[str] = set()
    swept: set[str] = set()
    for word in json.loads(os.environ[_SWEEP])["typed"]:
        if "=" in word and not word.startswith("-"):
            try:
                (override,) = OverridesParser.create().parse_overrides([word])
            except HydraException:
                continue  # an argument of Hydra's own, such as that of --config-name
            (swept if override.is_sweep_override() else fixed).add(key_of(word))
    pairs = {key_of(word): word.partition("=")[2] for word in words}
    return {key: value for key, value in pairs.items() if key in swept or (key not in fixed and is_choice(key))}


def _first_line(error: Exception) -> str:
    return next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)

"""What the files of a run say about it: the words that it was started with, its results, and how it ended.

Everything here only reads, and any file may be missing, cut off or full of rubbish: a run whose files cannot be read is `half-written`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "COMPLETE",
    "NO_CHOICE",
    "STATES",
    "Run",
    "changed_keys",
    "choices_of",
    "continues",
    "flat",
    "identity",
    "is_choice",
    "is_held",
    "key_of",
    "last_checkpoint",
    "newest_of",
    "read_run",
    "runs_in",
    "what_differs",
]

COMPLETE = ("completed", "stopped", "diverged")
"""The states of a run that has done all that its words ask for: to the end of its plan, to its own limit, or until it diverged."""

STATES = (*COMPLETE, "interrupted", "failed", "refused", "running", "half-written")
"""All states. The first four are the `status` of results.json. `failed`: an error ended it. `refused`: its input was invalid. `running`: a
process holds its lock. `half-written`: it ended without a word, as after a kill, or its files cannot be read."""

NO_CHOICE = ("hydra", "threads", "full_error", "output_dir", "logger")
"""Keys that decide where and how a run is carried out and what it logs, but not which run it is; their sub-keys as well."""

CONTINUES = ("ckpt_path", "resume")
"""Keys that continue a run. They make another run of it unless they name the files of its own folder."""

STARTED = ".run.json"
"""Written when a run starts, and again if it ends without results: `status`, `reason`, `commit`, and the words of the run."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader; ten times faster where PyYAML has been built with libyaml."""

LOCK = ".lock"
"""The file that a process holds a lock on while it carries out a run in the folder."""


@dataclass(frozen=True)
class Run:
    """The files of one run.

    Attributes:
        folder: the folder of the run.
        state: one of `STATES`.
        reason: why it ended, or what is wrong with its files; may be empty.
        overrides: the words that it was started with, as Hydra has them, without those that continue it; None if they cannot be read.
        results: results.json, or nothing.
        commit: the commit of the code that began it; None if that is not known.
    """

    folder: Path
    state: str
    reason: str = ""
    overrides: tuple[str, ...] | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint from which it can go on; None if there is none."""
        return newest_of(last_checkpoint(self.folder, self.config))

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """Its composed config, with interpolations as they were written; None if it cannot be read."""
        found, _ = _read(self.folder / ".hydra" / "config.yaml")
        return found if isinstance(found, dict) else None


def last_checkpoint(folder: Path, config: Mapping[str, Any] | None) -> Path:
    """Where the run in `folder` saves its last checkpoint, and where a resume looks for it: `callbacks.last` of its config.

    Args:
        folder: the folder of the run.
        config: its composed config, with its interpolations or without; None if it cannot be read.
    """
    found: Any = config
    for key in ("callbacks", "last"):
        found = found.get(key) if isinstance(found, Mapping) else None
    last: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    where = str(last.get("dirpath") or "${output_dir}/checkpoints").replace("${output_dir}", str(folder))
    return Path(where) / f"{last.get('filename') or 'last'}.ckpt"


def newest_of(last: Path) -> Path | None:
    """The last checkpoint, or the one before: a kill between two renames may have left only that; None if there is neither."""
    return next((file for file in (last, last.with_name("previous.ckpt")) if file.is_file()), None)


def choices_of(folder: Path) -> dict[str, str]:
    """The option of each config group, as Hydra has noted it in a run's folder: `scheduler` -> `cosine`; nothing if that cannot be read."""
    found, _ = _read(folder / ".hydra" / "hydra.yaml")
    for key in ("hydra", "runtime", "choices"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return {str(group): str(option) for group, option in found.items() if option is not None} if isinstance(found, Mapping) else {}


def key_of(word: str) -> str:
    """The key of an override: `optimizer.lr` of `+optimizer.lr=0.1`."""
    return word.partition("=")[0].lstrip("+~")


def is_choice(key: str) -> bool:
    """Whether a key is one of those by which a run is known: none of `NO_CHOICE`."""
    return not _is_under(key, NO_CHOICE)


def identity(words: Iterable[str]) -> tuple[str, ...]:
    """What a run is, as a canonical form of its overrides: sorted, each key once, without those of `NO_CHOICE`.

    Two runs with equal identities are repetitions of each other, if the code and the defaults are the same. `+` and `++` in front of a
    key do not count, numbers and the words null, true and false are compared by their value, and of a key that is given twice the last one
    counts, as in Hydra. A default that is typed is another identity than one that is left out, since the default may change.

    Args:
        words: overrides of a single run, such as `optimizer.lr=0.10`.
    """
    found: dict[str, str] = {}
    for word in words:
        key = key_of(word)
        if is_choice(key):
            found[key] = f"~{key}" if word.startswith("~") else f"{key}={_canonical(word.partition('=')[2])}"
    return tuple(sorted(found.values()))


def read_run(folder: Path) -> Run | None:
    """The run in `folder`; None if no training was started there."""
    hydra, results_file = folder / ".hydra", folder / "results.json"
    if not any(file.exists() for file in (folder / STARTED, results_file, folder / "steps.csv")):
        return None
    started, _ = _read(folder / STARTED)
    started = started if isinstance(started, dict) else {}
    words, wrong = started.get("words"), ""
    if not _are_words(words):
        words, wrong = _read(hydra / "overrides.yaml")
    if not _are_words(words):
        words, wrong = None, wrong or "overrides.yaml is damaged"
    results, damaged = _read(results_file)
    if results_file.exists() and not isinstance(results, dict):
        wrong = wrong or damaged or "results.json is damaged"
    results = results if isinstance(results, dict) else {}
    state, reason = _state(folder, results, started, wrong)
    commit = results.get("commit") or started.get("commit")
    return Run(
        folder,
        state,
        reason,
        overrides=None if words is None else tuple(word for word in words if not continues(word, folder)),
        results=results,
        commit=commit if isinstance(commit, str) else None,
    )


def runs_in(*folders: Path) -> Iterator[Run]:
    """Every run in these folders and below them, in the order of their names, in which 10 comes after 9."""
    for folder in folders:
        own = read_run(folder)
        if own is not None:
            yield own
            continue  # the folders below that of a run are its own
        try:
            below = sorted((path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=_in_order)
        except OSError:
            continue
        yield from runs_in(*below)


def what_differs(runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run key -> value of the overrides that not all of the runs have in common; a run without a key lacks it."""
    pairs = [{key_of(word): word.partition("=")[2] for word in run.overrides or () if is_choice(key_of(word))} for run in runs]
    keys = dict.fromkeys(key for each in pairs for key in each)
    differing = [key for key in keys if len({each.get(key) for each in pairs}) > 1]
    return [{key: each[key] for key in differing if key in each} for each in pairs]


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The dotted keys in which two composed configs differ, without those of `NO_CHOICE` and `CONTINUES`; sorted."""
    old, new = dict(flat(before)), dict(flat(after))
    differing = {key for key in old.keys() | new.keys() if key not in old or key not in new or old[key] != new[key]}
    return sorted(key for key in differing if not _is_under(key, (*NO_CHOICE, *CONTINUES)))


def _state(folder: Path, results: Mapping[str, Any], started: Mapping[str, Any], wrong: str) -> tuple[str, str]:
    """(state, reason). A result that is complete counts whatever came after it, such as an error of a logger."""
    status, reason = results.get("status"), results.get("reason")
    if status in COMPLETE:
        return str(status), str(reason or "")
    if is_held(folder / LOCK):
        return "running", ""
    if wrong:
        return "half-written", wrong
    if started.get("status") in ("failed", "refused", "interrupted") and started["status"] != status:
        return str(started["status"]), str(started.get("reason") or "")
    if status in STATES:
        return str(status), str(reason or "")
    return "half-written", "it was killed, or its machine stopped"


def is_held(lock: Path) -> bool:
    """Whether a process of this machine, or of any that shares the file system, holds the lock of a run."""
    try:
        import fcntl
    except ImportError:  # Windows, where no run holds one
        return False
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(file: Path) -> tuple[Any, str]:
    """(content of a JSON or YAML file, what is wrong with it); one of the two is empty."""
    try:
        text = file.read_text(encoding="utf-8")
        return (json.loads(text) if file.suffix == ".json" else yaml.load(text, _LOADER)), ""
    except FileNotFoundError:
        return None, f"{file.name} is missing"
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None, f"{file.name} is damaged"


def _are_words(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(word, str) for word in found)


def continues(word: str, folder: Path) -> bool:
    """Whether a word says that the run in `folder` goes on from its own files."""
    value = word.partition("=")[2].strip("'\"").replace("\\'", "'")
    if key_of(word) not in CONTINUES or value in ("", "null"):
        return False
    try:
        return Path(value).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _is_under(key: str, keys: Iterable[str]) -> bool:
    return any(key == each or key.startswith((f"{each}.", f"{each}/")) for each in keys)


def _canonical(value: str) -> str:
    """`0.10` -> `0.1`, `TRUE` -> `true`, `"a b"` -> `'a b'`; a whole number stays another value than the float."""
    value = value.strip()
    if value.lower() in ("null", "true", "false"):
        return value.lower()
    if re.fullmatch(r"""(["']).*\1""", value, flags=re.DOTALL):
        return f"'{value[1:-1]}'"
    for number in (int, float):
        try:
            return repr(number(value))
        except ValueError:
            continue
    return value


def flat(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value that is not a mapping; an empty mapping is a value."""
    if not isinstance(config, Mapping) or not config:
        yield key, config
        return
    for name, value in config.items():
        yield from flat(value, f"{key}.{name}" if key else str(name))


def _in_order(path: Path) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path.name) if part]

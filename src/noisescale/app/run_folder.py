"""The folder of a run, for the time of the run: held by one process, cleared of the files of an earlier run, its configuration recorded."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from noisescale.app.config import output_dir, overrides
from noisescale.app.launchers.ranks import is_first
from noisescale.app.recorded import CONFIG, last_record, next_record, read_record, write_record
from noisescale.errors import ConfigError

__all__ = ["RunFolder", "goes_on_in", "held", "refuse_folder_of_another", "results_in", "run_folder"]

LOCK = ".lock"
"""The file that a running process has locked; its content says which process that is."""

LEFT_BY_RUNS = ("steps.csv*", "epochs.csv*", "curvature.csv*", "results.json", "checkpoints", "events.out.*", "hparams.yaml", "csv", CONFIG)
"""What a run leaves in its folder, as patterns. `.hydra` is the last, so that it goes with the files even if a move is interrupted."""


@dataclass
class RunFolder:
    """The folder of the run that is carried out.

    Args:
        path: the folder.
        record: the folder in it with the recorded configuration of this part of the run.
        goes_on: whether the run continues from a checkpoint in this folder.
        untested: whether the run that continues has ended without a test.
    """

    path: Path
    record: Path
    goes_on: bool = False
    untested: bool = False

    def begin(self, cfg: DictConfig) -> None:
        """Make room for the files of this run, and record its configuration; called when everything that can be checked has been checked.

        A run that continues keeps its files; the results of its last part are not those of its end any more, and are moved to the record.
        Files of another run are moved into a folder of their own, `earlier-1`, as a whole.
        """
        if is_first():
            with _must_be_writable(self.path):
                self._begin(cfg)

    def _begin(self, cfg: DictConfig) -> None:
        if self.goes_on:
            self.untested = results_in(self.path).get("status", "interrupted") in ("interrupted", "failed")
            known = read_record(last_record(self.path)).words
            write_record(self.record, cfg, _added(known))
            if (self.path / "results.json").exists():
                (self.path / "results.json").replace(self.record / "results.json")
            return
        aside = _set_aside(self.path)
        if aside is not None:
            print(f"note: {self.path} had the files of an earlier run, which are in {aside} now", file=sys.stderr)
        write_record(self.record, cfg)

    def take_back(self) -> None:
        """Undo `begin` for a run that continues, and that was refused or interrupted before its first update."""
        if not self.goes_on or not is_first() or not self.record.is_dir():
            return
        if (self.record / "results.json").exists():
            (self.record / "results.json").replace(self.path / "results.json")
        for file in self.record.iterdir():
            file.unlink()
        self.record.rmdir()


def _added(known: tuple[str, ...]) -> list[str]:
    """The words of this part of the run, without those that its record has already."""
    words = overrides()
    return [word for word in words if word not in known]


@contextmanager
def run_folder(cfg: DictConfig) -> Iterator[RunFolder]:
    """The folder of this run, held until the end of the block.

    Raises:
        ConfigError: another run is carried out in it.
    """
    path = output_dir()
    refuse_folder_of_another(path, "train")
    goes_on = goes_on_in(cfg, path)
    folder = RunFolder(path, next_record(path) if goes_on else path / CONFIG, goes_on)
    if not is_first():
        yield folder
        return
    with held(path, "resume" if cfg.get("resume") is not None else "hydra.run.dir"):
        try:
            yield folder
        except (ConfigError, KeyboardInterrupt, SystemExit):
            if not (path / "results.json").exists():  # a training that was interrupted has written its own
                folder.take_back()
            raise


@contextmanager
def _must_be_writable(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise ConfigError("hydra.run.dir", run, problem, "choose another folder, or see to its rights and its disk") from error


def goes_on_in(cfg: DictConfig, run: Path) -> bool:
    """Whether the run that is carried out in this folder goes on with the run that is there."""
    if cfg.get("ckpt_path") is None or not (run / CONFIG / "config.yaml").is_file():
        return False
    resumed = cfg.get("resume") is not None and Path(str(cfg.resume)).resolve() == run.resolve()  # its checkpoints may lie elsewhere
    return resumed or _is_of(Path(str(cfg.ckpt_path)), run)


def _is_of(checkpoint: Path, run: Path) -> bool:
    """Whether a checkpoint is one of the run in this folder."""
    return run.resolve() in (checkpoint.resolve().parent, checkpoint.resolve().parent.parent)


def results_in(run: Path) -> dict[str, Any]:
    """What results.json of a run holds; nothing if there is none, or if it is damaged."""
    try:
        found = json.loads((run / "results.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- files of an earlier run --------------------------------------------------------------------------------------------------


def _set_aside(run: Path) -> Path | None:
    """Move what an earlier run has left in the folder into `earlier-1`, `earlier-2`, ...; None if there was no run."""
    if not any((run / name).exists() for name in ("steps.csv", "results.json", f"{CONFIG}/config.yaml", "checkpoints/last.ckpt")):
        return None
    left = [path for pattern in LEFT_BY_RUNS for path in sorted(run.glob(pattern))]
    for number in count(1):
        aside = run / f"earlier-{number}"
        with suppress(FileExistsError):
            aside.mkdir()
            break
    for path in left:
        path.replace(aside / path.name)
    return aside


STUDIES = ("branches", "curvature", "range_test", "recommend")
"""Programs that study a training, in a folder of their own."""


def refuse_folder_of_another(run: Path, program: str) -> None:
    """Raise `ConfigError` if a folder is that of another program, whose recorded configuration this one would replace.

    Args:
        run: the folder.
        program: the name of this program, such as plan. A training may follow a plan in its folder, but not a study.
    """
    if not (run / CONFIG / "config.yaml").is_file():
        return
    other = read_record(run / CONFIG).program
    if other != program and (program != "train" or other in STUDIES):
        what = f"of a study by {other}.py" if other in STUDIES else "of a plan" if other == "plan" else "of a training"
        raise ConfigError("hydra.run.dir", run, f"is the folder {what}", f"choose another folder for {program}.py")


# -- one run at a time --------------------------------------------------------------------------------------------------------


@contextmanager
def held(run: Path, key: str) -> Iterator[None]:
    """Hold the lock of a folder, which the system releases when this process ends, however it ends.

    It is a lock of `flock`, which works on local disks and, since Linux 2.6.12, on NFS. Where there are no locks, nothing is held.

    Args:
        run: the folder.
        key: the key that an error names.

    Raises:
        ConfigError: another process holds it.
    """
    file = _locked(run / LOCK, key)
    if file is None:
        yield
        return
    with _closed_in_forks(file):
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()} {socket.gethostname()} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        try:
            yield
        finally:
            with suppress(OSError):  # the folder may have been deleted
                (run / LOCK).unlink()
            os.close(file)


def _locked(path: Path, key: str) -> int | None:
    """The open lock file, locked; None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        with _must_be_writable(path.parent):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = os.pread(file, 1000, 0).decode(errors="replace").split()
            os.close(file)
            raise _in_use(path.parent, key, words) from None
        except OSError as error:
            os.close(file)
            print(f"note: two runs in {path.parent} would not be noticed: no locks there ({error.strerror})", file=sys.stderr)
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # the process that held it has ended, and deleted the file, since it was opened here


def _in_use(run: Path, key: str, words: list[str]) -> ConfigError:
    who = f"process {words[0]} on {words[1]}, since {' '.join(words[2:])}" if len(words) > 2 else "another process"
    if key == "resume":
        return ConfigError(key, run, f"the run is still carried out: {who}", "wait for its end, or stop it")
    return ConfigError(key, run, f"a run is carried out there: {who}", "choose another folder, or wait for its end")


_HELD: set[int] = set()


@contextmanager
def _closed_in_forks(file: int) -> Iterator[None]:
    """Close the file in processes that are forked from this one, such as workers of a DataLoader: they would hold the lock after a kill."""
    _HELD.add(file)
    try:
        yield
    finally:
        _HELD.discard(file)


def _close_held() -> None:
    while _HELD:
        with suppress(OSError):
            os.close(_HELD.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_held)

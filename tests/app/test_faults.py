"""Faults of the machine, such as a full disk: one line with the file, what is kept and how to go on, and an exit status that says so."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from noisescale.app.command import FAILED
from noisescale.app.faults import RunFailed, failure_of
from noisescale.callbacks import EpochRecorder
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from tests.helpers.front_door import Outcome, checkpoint_of, plan, results_of, run, run_dir
from tests.helpers.processes import python
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

SHORT = ("epochs=3", "data.subset_size=100", "threads=1")


# -- the line -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has written a checkpoint and its rows."""
    run = tmp_path / "a run"
    for file in (".hydra/config.yaml", "checkpoints/last.ckpt", "steps.csv"):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("noisescale.app.faults.output_dir", lambda: run)
    return run


def line_of(error: BaseException) -> str:
    """The line of an error, without what is kept."""
    found = failure_of(error)
    assert found is not None
    kept = "; kept: checkpoints/last.ckpt, steps.csv"
    assert kept in str(found)
    return str(found).replace(kept, "").partition("; go on with ")[0]


def of(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (of(errno.ENOSPC, "a run/steps.csv"), "a run/steps.csv: cannot be written (No space left on device); free some space"),
        (
            of(errno.EDQUOT, "a run/.x.json.part"),
            "a run/x.json: cannot be written (Disk quota exceeded); free some space, or raise the quota",
        ),
        (of(errno.EROFS, "elsewhere/x"), "elsewhere/x: cannot be used (Read-only file system); make it writable"),
        (of(errno.ENOSPC), "a file cannot be written (No space left on device); free some space"),
        (of(errno.ENOENT, "data/x.png"), "data/x.png: cannot be used (No such file or directory)"),
        (of(errno.EPIPE), "the output cannot be printed (Broken pipe)"),
        (of(errno.EMFILE), "Too many open files; raise the limit on open files, see ulimit -n, or lower data.num_workers"),
        (ConnectionError("no server"), "no server"),
        (OSError("Caught OSError in worker 0.\nOriginal Traceback ...\nOSError: [Errno 5] bad: 'x'"), "OSError: [Errno 5] bad: 'x'"),
        (MemoryError(), "not enough memory; lower max_micro_batch_size, which does not change the result, or data.num_workers"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "not enough memory; lower max_micro_batch_size, which does not change the result, or data.num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "),
            "DataLoader worker (pid 3) is killed by signal: Killed; memory may have run out: lower data.num_workers",
        ),
        (
            RuntimeError("Too many open files. Communication with the workers is no longer possible."),
            "Too many open files; raise the limit on open files, see ulimit -n, or lower data.num_workers",
        ),
    ],
)
def test_the_line_of_an_error_of_the_machine(error: BaseException, line: str, folder: Path) -> None:
    assert line_of(error) == line


def test_the_line_says_how_to_go_on_quoted_for_a_shell(folder: Path) -> None:
    assert str(failure_of(of(errno.ENOSPC))).endswith("go on with python train.py 'resume=a run'")


def test_the_file_is_named_by_whoever_was_writing_it(folder: Path) -> None:
    def writes(handle: Any) -> None:
        raise of(errno.ENOSPC)

    with pytest.raises(OSError, match="No space") as caught, (folder / "epochs.csv").open("w") as file:
        writes(file)
    assert line_of(caught.value).startswith("a run/epochs.csv: cannot be written (No space left on device)")


@pytest.mark.parametrize("error", [ConfigError("a", 1, "b"), ValueError("Too many open files"), RuntimeError("a bug"), KeyError("a")])
def test_other_errors_are_none_of_the_machine(error: Exception, folder: Path) -> None:
    assert failure_of(error) is None


def test_a_failure_is_told_once(folder: Path) -> None:
    failure = RunFailed("x")
    assert failure_of(failure) is failure


def test_a_folder_that_is_gone(folder: Path) -> None:
    shutil.rmtree(folder)
    line = str(failure_of(of(errno.ENOENT, "a run/steps.csv")))
    assert line == "a run/steps.csv: cannot be written (No such file or directory); the folder of the run was removed or moved"


# -- runs ---------------------------------------------------------------------------------------------------------------------


def trained_until(fault: Callable[[], None], folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Outcome:
    """A run in which `fault` happens when its third epoch starts."""
    start = EpochRecorder.on_train_epoch_start

    def on_train_epoch_start(recorder: EpochRecorder, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        start(recorder, trainer, module)
        if trainer.current_epoch == 2:
            fault()

    with monkeypatch.context() as patch:
        patch.setattr(EpochRecorder, "on_train_epoch_start", on_train_epoch_start)
        return run(*SHORT, *words, run_dir(folder))


def error_of(outcome: Outcome, status: int = FAILED) -> str:
    """The error of a run, which is its last line and the only one beside the line of the start."""
    assert outcome.status == status, outcome
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    (line,) = (line for line in outcome.lines if not line.startswith("effective "))
    return line.removeprefix("error: ")


def no_space(path: Path) -> Callable[..., Any]:
    """`Path.open` of a disk on which nothing can be written below `path`."""
    open_path = Path.open

    def opened(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path in self.parents and mode[0] in "wax":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return open_path(self, mode, *rest, **named)

    return opened


def test_a_full_disk_ends_a_run_in_one_line_and_it_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with monkeypatch.context() as patch:
        outcome = trained_until(lambda: patch.setattr(Path, "open", no_space(cut)), cut, monkeypatch, "logger=csv-only")
    line = error_of(outcome)
    assert "epochs.csv: cannot be written (No space left on device); kept: checkpoints/last.ckpt, checkpoints/best.ckpt, steps.csv" in line
    assert "; free some space; go on with " in line
    assert not (cut / "results.json").exists()
    assert run(*SHORT, "logger=csv-only", run_dir(whole)).status == 0
    outcome = run(*SHORT, "logger=csv-only", f"ckpt_path={cut}/checkpoints/last.ckpt", run_dir(cut))
    assert outcome.status in (0, 2), outcome.err  # 2: nothing was left to train
    assert (cut / "steps.csv").read_text() == (whole / "steps.csv").read_text()
    ends = [checkpoint_of(folder)["state_dict"] for folder in (whole, cut)]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])


def test_a_folder_that_is_removed_during_the_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = error_of(trained_until(lambda: shutil.rmtree(tmp_path / "run"), tmp_path / "run", monkeypatch))
    assert line.endswith("cannot be written (No such file or directory); the folder of the run was removed or moved")
    results = results_of(tmp_path / "run")
    assert (results["status"], results["reason"]) == ("failed", line)


def test_the_plan_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", no_space(tmp_path))
    outcome = plan("epochs=1", run_dir(tmp_path / "run"))
    assert (outcome.status, len(outcome.lines)) == (FAILED, 1)
    assert outcome.lines[0].endswith("config.yaml: cannot be written (No space left on device); free some space")


def test_printed_commands_are_quoted(tmp_path: Path) -> None:
    outcome = run(*SHORT, "trainer.max_steps=1", run_dir(tmp_path / "a run's"))
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[-1].endswith("""a run'"'"'s'""")


PROGRAM = """
import os, resource, runpy, shutil, sys
from noisescale.callbacks import EpochRecorder
start = EpochRecorder.on_train_epoch_start
def on_train_epoch_start(recorder, trainer, module):
    start(recorder, trainer, module)
    if trainer.current_epoch == 2:
        fault()
def fault():
    {fault}
{first}
EpochRecorder.on_train_epoch_start = on_train_epoch_start
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "fault", "words", "line"),
    [
        (
            "",
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))",
            "",
            "cannot be written (File too large); kept: checkpoints/last.ckpt",
        ),
        (
            "",
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))",
            "callbacks=light",
            "cannot be written (File too large); kept: steps.csv",
        ),
        (
            "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))",
            "pass",
            "",
            "checkpoints/best.ckpt: cannot be written (File too large)",
        ),
        (
            "",
            "n = len(os.listdir('/proc/self/fd')); resource.setrlimit(resource.RLIMIT_NOFILE, (n - 1, n - 1))",
            "data.num_workers=2 data.in_memory=false",
            "Too many open files",
        ),
        (
            "",
            "shutil.rmtree('{run}/checkpoints'); open('{run}/checkpoints', 'w').close()",
            "",
            "checkpoints/best.ckpt: cannot be written (File exists)",
        ),
        (
            "",
            "os.unlink('{run}/epochs.csv'); os.mkdir('{run}/epochs.csv')",
            "",
            "epochs.csv: cannot be written (there is something that is no file)",
        ),
        ("", "os.unlink('{run}/steps.csv')", "", "steps.csv: cannot be written (it was removed while the run was writing it)"),
        ("", "shutil.rmtree('{run}'); open('{run}', 'w').close()", "", "cannot be written (Not a directory)"),
        ("", "os.rename('{run}', '{run}.moved')", "", "the folder of the run was removed or moved"),
        ("os.dup2(os.open('/dev/full', os.O_WRONLY), 1)", "pass", "", "a file cannot be written (No space left on device)"),
        (
            "resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9,) * 2)",
            "pass",
            "model.widths=[20000,20000]",
            "not enough memory at update 0, in a micro-batch",
        ),
    ],
)
def test_faults_as_they_happen(first: str, fault: str, words: str, line: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = PROGRAM.format(first=first, fault=fault.replace("{run}", str(folder)))
    found = python("-c", program, *SHORT, *words.split(), run_dir(folder))
    assert found.returncode == FAILED, found
    assert "Traceback" not in found.stderr
    lines = [each for each in found.stderr.splitlines() if not each.startswith("effective ")]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("error: ")
    assert line in lines[0]
    rows = read_rows(folder / "steps.csv") if folder.is_dir() else []
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    if (folder / "checkpoints" / "last.ckpt").exists():
        assert checkpoint_of(folder)["global_step"] > 0 or not rows  # memory may run out in the first update

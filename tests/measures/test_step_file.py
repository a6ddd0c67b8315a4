"""Runs that write into the same folder, as without a logger, keep their rows apart and lose none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.files import read_rows
from noisescale.measures.step_file import Mark, StepFile
from noisescale.plans import strategies as batching
from tests.helpers.processes import started, wait_until
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import Stop, fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

UPDATES = 6
"""Of 103 examples in twenties, in each epoch."""


def run(folder: Path, lr: float, epochs: int, path: Path | None = None, **options: Any) -> pl.Trainer:
    """A run without a logger, whose files are in `folder`."""
    module = Plain(network(), lambda parameters: torch.optim.SGD(parameters, lr=lr))
    monitor = NoiseScaleMonitor(path)
    return fit(module, BatchSizeScheduler(batching.Fixed(20)), monitor, default_root_dir=folder, max_epochs=epochs, **options)


def contents(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """(step, lr) of the rows of each file."""
    return {path.name: [(row["step"], float(row["lr"])) for row in read_rows(path)] for path in sorted(folder.glob("steps.csv*"))}


def rows(lr: float, end: int, start: int = 0) -> list[tuple[str, float]]:
    return [(str(step), lr) for step in range(start, end)]


def test_each_run_in_one_process_has_a_file(tmp_path: Path) -> None:
    for number, lr in enumerate((0.1, 0.2, 0.3), start=1):
        run(tmp_path, lr, number)
    assert contents(tmp_path) == {"steps.csv": rows(0.3, 18), "steps.csv.1": rows(0.1, 6), "steps.csv.2": rows(0.2, 12)}


def test_a_resumed_run_continues_its_own_file(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12)}


def test_so_does_one_that_failed_inside_an_update_at_another_rate(tmp_path: Path) -> None:
    """The monitor has read the rate of the update that fails, which is not that of the last row."""

    class Fails(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 4:
                raise Stop

        def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    for ckpt, callbacks in ((None, [Fails()]), (tmp_path / "a.ckpt", [])):
        batches = BatchSizeScheduler(batching.Fixed(20), schedules.Cosine(T_max=2))
        with pytest.raises(Stop) if ckpt is None else nullcontext():
            fit(Plain(network()), batches, NoiseScaleMonitor(), *callbacks, default_root_dir=tmp_path, max_epochs=1, ckpt_path=ckpt)
    assert [row["step"] for row in read_rows(tmp_path / "steps.csv")] == ["0", "1", "2", "3", "4", "5"]
    assert list(contents(tmp_path)) == ["steps.csv"]


def test_a_resumed_run_does_not_continue_the_file_of_another_run(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.2, 3)
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12, 6), "steps.csv.1": rows(0.1, 6), "steps.csv.2": rows(0.2, 18)}


def test_nor_of_a_run_that_has_not_come_so_far(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 2).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.2, 1)
    run(tmp_path, 0.1, 3, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 18, 12), "steps.csv.1": rows(0.1, 12), "steps.csv.2": rows(0.2, 6)}


def test_nor_of_a_run_with_the_same_rate_and_other_batches(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    module = Plain(network())
    fit(module, BatchSizeScheduler(batching.Fixed(10)), NoiseScaleMonitor(), default_root_dir=tmp_path, max_epochs=1)
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12, 6), "steps.csv.1": rows(0.1, 6), "steps.csv.2": rows(0.1, 11)}


def test_a_second_branch_from_a_checkpoint_does_not_remove_the_rows_of_the_first(tmp_path: Path) -> None:
    run(tmp_path, 0.1, 1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.1, 3, ckpt_path=tmp_path / "a.ckpt")
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12), "steps.csv.1": rows(0.1, 18)}


def test_in_a_file_of_its_own_the_rows_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    run(tmp_path, 0.1, 1, path).save_checkpoint(tmp_path / "a.ckpt")
    for epochs in (3, 2):
        run(tmp_path, 0.1, epochs, path, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12)}


def test_a_run_that_goes_on_without_the_state_of_a_monitor_has_a_file_of_its_own(tmp_path: Path) -> None:
    module = Plain(network())
    fit(module, BatchSizeScheduler(batching.Fixed(20)), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    run(tmp_path, 0.2, 2)
    run(tmp_path, 0.1, 2, ckpt_path=tmp_path / "a.ckpt")
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12, 6), "steps.csv.1": rows(0.2, 12)}
    assert read_rows(tmp_path / "steps.csv")[0]["examples_seen"] == "103"


def test_one_monitor_in_a_second_fit_of_its_trainer_goes_on_in_its_file(tmp_path: Path) -> None:
    module, monitor = Plain(network()), NoiseScaleMonitor(tmp_path / "steps.csv")
    trainer = fit(module, BatchSizeScheduler(batching.Fixed(20)), monitor, max_epochs=1)
    data = trainer.fit_loop._data_source.instance
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, data)
    assert contents(tmp_path) == {"steps.csv": rows(0.1, 12)}


class Slow(pl.Callback):
    """Waits in each update until the other run has started, so that the two overlap."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        deadline = time.monotonic() + 60
        while trainer.global_step == 3 and not Path(trainer.default_root_dir, "steps.csv.1").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def overlapping(folder: str) -> None:
    """The run in the other process, which writes each row at once."""
    module = Plain(network(), lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    monitor = NoiseScaleMonitor(write_every=1)
    fit(module, BatchSizeScheduler(batching.Fixed(20)), monitor, Slow(), default_root_dir=folder, max_epochs=2)


@pytest.mark.slow
def test_two_runs_at_once_in_two_processes_have_a_file_each(tmp_path: Path) -> None:
    code = f"from tests.measures.test_step_file import overlapping; overlapping({str(tmp_path)!r})"
    other = started("-c", code)
    wait_until(lambda: len(read_rows(tmp_path / "steps.csv")) >= 3, other)
    run(tmp_path, 0.2, 1)
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert contents(tmp_path) == {"steps.csv": rows(0.2, 6), "steps.csv.1": rows(0.1, 12)}


COLUMNS = ("step", "lr", "examples_seen", "effective_batch_size")


def step_file(path: Path, start: int = 0, mark: Mark | None = None, shared: bool = False) -> StepFile:
    return StepFile(path, COLUMNS, start, (0.1, 20 * start), shared, mark)


def numbered(start: int, end: int) -> list[tuple[int, float, int, int]]:
    return [(step, 0.1, 20 * step, 20) for step in range(start, end)]


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, Mark]:
    """A file that was marked after ten rows, and has twelve and a half."""
    path = tmp_path / "steps.csv"
    file = step_file(path)
    file.append(numbered(0, 10))
    mark = file.mark()
    file.append(numbered(10, 12))
    with path.open("a") as end:
        end.write("12,0.1,2")
    return path, mark


def test_a_file_is_cut_back_to_its_mark(killed: tuple[Path, Mark]) -> None:
    path, mark = killed
    file = step_file(path, 10, mark)
    file.append(numbered(10, 13))
    fresh = step_file(path.with_name("fresh.csv"))
    fresh.append(numbered(0, 13))
    assert path.read_bytes() == path.with_name("fresh.csv").read_bytes()
    assert (file.mark().size, file.mark().crc) == (fresh.mark().size, fresh.mark().crc)


def _zeros(path: Path) -> None:
    """What a power cut leaves of blocks that were never written."""
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(40) + data[100:])


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (lambda path: path.unlink(), "rows 0 to 9"),
        (lambda path: path.write_bytes(b""), "rows 0 to 9"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "rows 0 to 9"),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), "rows 2 to 9"),
        (_zeros, "rows 1 to 4"),
    ],
    ids=["missing", "empty", "zeros", "truncated", "a hole"],
)
def test_rows_that_are_lost_are_named(damage: Callable[[Path], Any], missing: str, killed: tuple[Path, Mark]) -> None:
    path, mark = killed
    damage(path)
    with pytest.warns(UserWarning, match=rf"{path} lacks {missing}, which were lost"):
        file = step_file(path, 10, mark)
    file.append(numbered(10, 11))
    first = int(missing.split()[1])
    steps = [row["step"] for row in read_rows(path)]
    assert steps == [str(step) for step in range(11) if not first <= step <= int(missing.split()[3])]
    step_file(path, 11, file.mark())  # said once


def test_a_file_that_is_no_table_any_more_is_renamed(killed: tuple[Path, Mark], caplog: pytest.LogCaptureFixture) -> None:
    path, mark = killed
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        step_file(path, 10, mark)
    assert caplog.messages == [f"{path} begins at update 10: the file that was there is not that of the checkpoint, and was renamed"]
    assert path.with_name("steps.csv.1").read_bytes().startswith(b"\xff\xfe")


def test_in_another_folder_a_line_says_where_the_rows_are(killed: tuple[Path, Mark], caplog: pytest.LogCaptureFixture) -> None:
    path, mark = killed
    other = path.with_name("other.csv")
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        step_file(other, 10, mark)
    assert caplog.messages == [f"{other} begins at update 10: rows 0 to 9 are where the checkpoint was saved, in {path}"]
    assert len(read_rows(path)) == 12
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):  # a folder that was moved as a whole is the same
        shutil.copyfile(path, path.with_name("moved.csv"))
        step_file(path.with_name("moved.csv"), 10, mark)
    assert len(caplog.messages) == 1


def test_a_shared_file_is_copied_before_it_is_cut(killed: tuple[Path, Mark]) -> None:
    path, mark = killed
    step_file(path, 10, mark, shared=True)
    assert (len(read_rows(path)), len(read_rows(path.with_name("steps.csv.1")))) == (10, 12)

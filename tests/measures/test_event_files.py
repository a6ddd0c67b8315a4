"""TensorBoard's files are cut back to what they were when a checkpoint was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from noisescale.measures.event_files import EventFiles
from tests.helpers.left_behind import scalars


def write(writer: Any, start: int, end: int) -> None:
    for step in range(start, end):
        writer.add_scalar("loss", 1 / (1 + step), step)
        writer.add_scalar("by_examples/loss", 1 / (1 + step), 20 * step)


def points(folder: Path) -> list[int]:
    found = scalars(folder)
    assert [20 * step for step, _ in found.get("loss", [])] == [step for step, _ in found.get("by_examples/loss", [])]
    return [step for step, _ in found.get("loss", [])]


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run that saved a checkpoint after 10 updates, and was killed after 15, when it had closed its first file and opened another."""
    SummaryWriter(tmp_path, filename_suffix=".foreign").close()
    writer = SummaryWriter(tmp_path)
    files = EventFiles()
    write(writer, 0, 4)
    files.state([(tmp_path, writer)])
    write(writer, 4, 10)
    saved = files.state([(tmp_path, writer)])
    write(writer, 10, 13)
    writer.close()
    write(writer, 13, 15)
    writer.close()
    return tmp_path, saved


def names(folder: Path, part: str) -> int:
    return sum(part in path.name for path in folder.iterdir())


def test_points_after_the_checkpoint_are_removed_and_those_of_examples_kept(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, saved = killed
    assert points(folder) == [*range(15)]
    writer = SummaryWriter(folder)
    EventFiles().cut_back([(folder, writer)], saved, 10)
    assert points(folder) == [*range(10)]
    write(writer, 10, 20)
    writer.close()
    assert points(folder) == [*range(20)]
    assert (names(folder, "set_aside"), names(folder, "foreign")) == (1, 1)


def test_a_run_is_resumed_again_and_again(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, saved = killed
    for step in (10, 14, 14, 18):
        files, writer = EventFiles(), SummaryWriter(folder)
        files.cut_back([(folder, writer)], saved, step)
        assert points(folder) == [*range(step)]
        write(writer, step, step + 4)
        saved = files.state([(folder, writer)]) if step != 14 or names(folder, "set_aside") > 1 else saved
        write(writer, step + 4, step + 6)
        writer.close()
        if step == 10:
            assert points(folder) == [*range(16)]
    files.cut_back([(folder, None)], saved, 22)
    assert points(folder) == [*range(22)]


@pytest.mark.parametrize("how", ["truncated", "zeros"])
def test_a_damaged_file_is_cut_to_whole_records_with_a_line(how: str, killed: tuple[Path, dict[str, Any]]) -> None:
    folder, saved = killed
    (name,) = saved["files"]
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:500] if how == "truncated" else data[:500] + bytes(len(data) - 500))
    with pytest.warns(UserWarning, match=rf"{name} was damaged .*; TensorBoard lacks some points before update 10"):
        EventFiles().cut_back([(folder, None)], saved, 10)
    left = (folder / name).stat().st_size
    assert 400 < left <= 500
    assert points(folder) == [*range(len(points(folder)))] != []


def test_a_missing_file_is_said(killed: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    folder, saved = killed
    (name,) = saved["files"]
    (folder / name).rename(folder / "moved")
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        EventFiles().cut_back([(folder, None)], saved, 10)
    assert caplog.messages == [f"TensorBoard's points before update 10 are not in {folder}, but where the checkpoint was saved"]
    assert names(folder, "set_aside") == 0  # it may be the folder of another run
    (folder / "moved").rename(folder / name)
    with pytest.warns(UserWarning, match=r"gone is missing; TensorBoard lacks the points of that file"):
        EventFiles().cut_back([(folder, None)], {**saved, "files": {**saved["files"], "gone": [10, 1]}}, 10)

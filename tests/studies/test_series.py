"""Reading the rows of a run: what is whole is kept, what is not is said, and what is thinned out is still what happened."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.studies.series import Series, means_over_epochs, read_series, without_spikes

WHOLE = b"step,lr\n0,0.1\n1,0.2\n"


@pytest.mark.parametrize(
    ("content", "lr", "damage"),
    [
        (WHOLE, [0.1, 0.2], ""),
        (WHOLE + b"2,0.3", [0.1, 0.2], "steps.csv: 1 line cut off or unreadable"),
        (WHOLE + b"\0\0\0\n2,0.3\n", [0.1, 0.2, 0.3], "steps.csv: 1 line cut off or unreadable"),
        (WHOLE + b"2\n3,0.3,5\n\xff\xfe,\xff\n4,0.4\n", [0.1, 0.2, 0.4], "steps.csv: 3 lines cut off or unreadable"),
        (b"step,lr\r\n0,0.1\r\n", [0.1], ""),
        (b"step,lr\n", [], "steps.csv has no rows"),
        (b"step,l", [], "steps.csv has no rows"),
        (b"", [], "steps.csv has no rows"),
        (b"\0" * 100, [], "steps.csv has no rows"),
    ],
)
def test_whole_rows_are_kept_and_damage_is_said(content: bytes, lr: list[float], damage: str, tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_bytes(content)
    found = read_series(tmp_path / "steps.csv")
    assert found.pairs("step", "lr")[1] == lr
    assert (found.damage, found.last.get("lr")) == (damage, lr[-1] if lr else None)


def test_a_file_that_is_missing_or_none_is_said(tmp_path: Path) -> None:
    assert read_series(tmp_path / "steps.csv").damage == "no steps.csv"
    (tmp_path / "steps.csv").mkdir()
    assert read_series(tmp_path / "steps.csv").damage.startswith("steps.csv cannot be read (")
    assert read_series(tmp_path / "steps.csv").pairs("a", "b") == ([], [])


def test_a_field_without_a_number_leaves_out_its_point_alone(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("epoch,a,b\n1,,3\n2,nan,4\n3,7,inf\n")
    found = read_series(tmp_path / "e.csv")
    assert (found.pairs("epoch", "a"), found.pairs("epoch", "b"), found.damage) == (([3], [7]), ([1, 2], [3, 4]), "")


@pytest.mark.parametrize("rows", [30, 31, 1000])
def test_of_a_long_file_groups_of_three_rows_are_kept_from_the_first_to_the_last(rows: int, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("step\n" + "".join(f"{k}\n" for k in range(rows)))
    steps = read_series(tmp_path / "s.csv", groups=10).columns["step"]
    assert (steps[0], steps[-1], len(steps)) == (0, rows - 1, 30)
    assert all(steps[i : i + 3] == [steps[i], steps[i] + 1, steps[i] + 2] for i in range(0, 30, 3))


numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@settings(max_examples=40)
@given(numbers)
def test_slopes_and_steps_stay_and_single_spikes_go(values: list[float]) -> None:
    slope = sorted(values)
    assert without_spikes(slope)[:-1] == slope[:-1]
    level = [1.0] * (len(values) + 4)
    level[len(values) // 2 + 1] = values[0]
    assert without_spikes(level) == [1.0] * len(level)
    steps = [1.0, 1.0, 5.0, 5.0]
    assert without_spikes(steps) == steps


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(2, 5), st.integers(1, 40))
def test_means_over_epochs_are_those_of_the_examples(size: int, epochs: int, n: int) -> None:
    """Against a twin that counts examples one by one; B may divide N or not."""
    updates = max(epochs * n // size, 1)
    columns = {
        "epoch": [k * size / n for k in range(updates)],
        "step": [float(k) for k in range(updates)],
        "examples_seen": [float(k * size) for k in range(updates)],
        "effective_batch_size": [float(size)] * updates,
        "loss": [float(k % 7) for k in range(updates)],
    }
    found = means_over_epochs(Series(columns))
    if columns["epoch"][-1] >= 1:
        of_epoch: dict[int, list[float]] = {}
        for k in range(updates):
            of_epoch.setdefault(k * size // n, []).extend([k % 7] * size)
        assert found.columns["loss"] == pytest.approx([math.fsum(each) / len(each) for each in of_epoch.values()])
    assert found.columns["examples_seen"][-1] == updates * size
    assert found.columns["step"][-1] == updates
    assert updates == 1 or found.columns["epoch"][-1] == pytest.approx(updates * size / n)


def test_without_updates_there_are_no_means() -> None:
    assert means_over_epochs(Series()).columns == {}

"""Runs that differ in their seed alone are one group, whatever was typed, and each group is named by what distinguishes it."""

from __future__ import annotations

from pathlib import Path

from noisescale.studies.groups import grouped, seed_of
from noisescale.studies.runs import runs_in
from tests.helpers.runs import config_of, leave_run


def groups_in(folder: Path) -> dict[str, list[str]]:
    """Name of each group -> the folders of its runs."""
    return {group.name: [run.folder.name for run in group.runs] for group in grouped([*runs_in(folder)])}


def test_seeds_are_folded_and_a_typed_default_is_no_other_group(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", ["seed=0"])
    leave_run(tmp_path / "1", ["seed=1", "optimizer.lr=0.10", "threads=4"])
    leave_run(tmp_path / "2", ["optimizer.lr=0.2"])
    assert groups_in(tmp_path) == {"optimizer.lr=0.1": ["0", "1"], "optimizer.lr=0.2": ["2"]}


def test_one_group_needs_no_name(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", ["seed=0"])
    leave_run(tmp_path / "1", ["seed=1"])
    assert groups_in(tmp_path) == {"all runs": ["0", "1"]}
    assert [seed_of(run) for run in runs_in(tmp_path)] == [0, 1]


def test_everything_that_was_typed_and_differs_is_in_the_name(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", ["optimizer.lr=0.1", "batch.size=8", "epochs=2"])
    leave_run(tmp_path / "1", ["optimizer.lr=0.2", "batch.size=16", "epochs=2"])
    assert [*groups_in(tmp_path)] == ["optimizer.lr=0.1 batch.size=8", "optimizer.lr=0.2 batch.size=16"]


def test_options_are_named_by_their_words_and_not_by_the_keys_inside(tmp_path: Path) -> None:
    for number, (option, size) in enumerate({"small": 8, "large": 32}.items()):
        config = config_of([]) | {"batch": {"_target_": f"x.{option}", "size": size}}
        leave_run(tmp_path / str(number), [f"batch={option}"], options={"batch": option}, config=config)
    assert [*groups_in(tmp_path)] == ["batch=small", "batch=large"]


def test_a_default_that_has_changed_is_seen(tmp_path: Path) -> None:
    leave_run(tmp_path / "0")
    leave_run(tmp_path / "1", config=config_of(["optimizer.momentum=0.8"]))
    assert groups_in(tmp_path) == {"optimizer.momentum=0.9": ["0"], "optimizer.momentum=0.8": ["1"]}


def test_a_run_whose_config_is_damaged_belongs_to_those_of_the_same_words(tmp_path: Path) -> None:
    for number in range(3):
        leave_run(tmp_path / str(number), [f"seed={number}", "optimizer.lr=0.2"])
    leave_run(tmp_path / "3", ["seed=3"])
    (tmp_path / "1" / ".hydra" / "config.yaml").write_text("task: [")
    (tmp_path / "3" / ".hydra" / "config.yaml").unlink()
    assert [*groups_in(tmp_path).values()] == [["0", "1", "2"], ["3"]]


def test_runs_of_which_nothing_is_known_are_groups_of_their_own(tmp_path: Path) -> None:
    for name in ("version_0", "version_1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "steps.csv").write_text("step\n0\n")
    assert [*groups_in(tmp_path).values()] == [["version_0"], ["version_1"]]
    assert all("version_" in name for name in groups_in(tmp_path))


def test_a_run_that_was_resumed_with_other_words_is_another_one(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", ["seed=0"])
    leave_run(tmp_path / "1", ["seed=1", "resumed=with_other_words"], config=config_of(["seed=1"]))
    assert len(groups_in(tmp_path)) == 2

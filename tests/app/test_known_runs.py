"""A sweep that is repeated: what is complete is kept, what is not is finished, and what is new gets a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import pytest

from tests.helpers.front_door import QUICK, Outcome, results_of, run
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

LEAN = (*QUICK, "callbacks=light", "logger=csv-only")


def sweep(folder: Path, *words: str) -> Outcome:
    return run("-m", *LEAN, f"hydra.sweep.dir={folder}", *words)


def notes(outcome: Outcome) -> list[str]:
    return [line for line in outcome.lines if line.startswith("note: ")]


def rows(outcome: Outcome) -> list[list[str]]:
    """(run, what is varied, status) of each row of the table."""
    return [[cell.strip() for cell in line.strip("│").split("│")][:3] for line in outcome.out.splitlines() if line.startswith("│")]


def launched(outcome: Outcome) -> list[str]:
    """The words of each run that was carried out."""
    return [line.partition(" : ")[2] for line in outcome.out.splitlines() if "\t#" in line]


@pytest.mark.slow
def test_a_longer_sweep_in_another_order_carries_out_what_is_new(tmp_path: Path) -> None:
    assert sweep(tmp_path, "optimizer=sgd", "optimizer.lr=1e6,0.1").status == 0
    kept = {number: (tmp_path / number / "results.json").stat().st_mtime_ns for number in "01"}
    outcome = sweep(tmp_path, "optimizer.lr=0.2,0.10,1000000.0", "optimizer=sgd")
    assert outcome.status == 0
    assert rows(outcome) == [["2", "0.2", "completed"], ["1", "0.1", "completed"], ["0", "1000000.0", "diverged"]]
    assert {number: (tmp_path / number / "results.json").stat().st_mtime_ns for number in "01"} == kept
    said = "2 kept, because they are complete (1 completed, 1 diverged), 1 new"
    assert notes(outcome) == [f"note: of 3 runs in {tmp_path}: {said}"]
    assert results_of(tmp_path / "2")["choices"]["optimizer.lr"] == 0.2
    again = sweep(tmp_path, "optimizer.lr=0.2,0.10,1000000.0", "optimizer=sgd")  # with nothing left to do
    assert (again.status, launched(again)) == (0, [])
    assert rows(again) == rows(outcome)


@pytest.mark.slow
def test_runs_that_differ_in_what_does_not_count_are_still_several(tmp_path: Path) -> None:
    """A sweep may vary what is no part of the identity; each of its runs is then known by its words."""
    assert sweep(tmp_path, "threads=1,2").status == 0
    (words,) = launched(sweep(tmp_path, "threads=4,2,1"))
    assert " threads=4 " in words
    assert launched(sweep(tmp_path, "threads=3")) == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_is_the_run_that_was_never_interrupted(tmp_path: Path) -> None:
    words = ("epochs=3", "callbacks=full", "seed=0,1")
    ends = ("+callbacks.end._target_=tests.helpers.callbacks.EndsOnce", f"+callbacks.end.mark={tmp_path}/mark", "+callbacks.end.epoch=2")
    first = sweep(tmp_path / "a", *words, *ends)
    assert (first.status, rows(first)) == (130, [["0", "0", "interrupted"]])
    second = sweep(tmp_path / "a", *words, *ends)
    assert second.status == 0, second.err
    assert notes(second)[0] == f"note: of 2 runs in {tmp_path / 'a'}: 1 continued from their last checkpoints, 1 new"
    assert rows(second) == [["0", "0", "completed"], ["1", "1", "completed"]]
    assert "\nseed=0: completed" in second.out
    assert sweep(tmp_path / "b", *words[:2], "seed=0").status == 0
    assert (tmp_path / "a" / "0" / "steps.csv").read_text() == (tmp_path / "b" / "0" / "steps.csv").read_text()


@pytest.mark.slow
def test_a_run_that_was_refused_or_has_no_checkpoint_starts_again_in_its_folder(tmp_path: Path) -> None:
    assert sweep(tmp_path, "optimizer.lr=-1,0.1").status == 2
    (tmp_path / "1" / "results.json").unlink()
    outcome = sweep(tmp_path, "optimizer.lr=-1,0.1")
    assert outcome.status == 2
    assert notes(outcome)[0] == f"note: of 2 runs in {tmp_path}: 2 started again, because they have no checkpoint"
    assert (tmp_path / "1" / "earlier-1" / "steps.csv").exists()
    assert rows(outcome) == [["0", "-1", "refused"], ["1", "0.1", "completed"]]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["0", "1"]


@pytest.mark.slow
def test_what_was_made_with_other_defaults_or_another_commit_is_said(tmp_path: Path) -> None:
    assert sweep(tmp_path, "seed=0,1", "callbacks=full").status == 0
    config, results = tmp_path / "0" / ".hydra" / "config.yaml", tmp_path / "1" / "results.json"
    config.write_text(config.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    results.write_text(json.dumps({**results_of(tmp_path / "1"), "commit": "0123456789"}))
    said = notes(sweep(tmp_path, "seed=0,1", "callbacks=full"))
    assert said[1] == (
        "note: kept, but made with another value of optimizer.momentum in conf/: run 0; another hydra.sweep.dir trains them again"
    )
    assert said[2].startswith("note: begun by another commit, 0123456 and not ")
    assert said[2].endswith(": run 1; another hydra.sweep.dir trains them again")
    # Unfinished, it would go on with another momentum, so that it starts anew elsewhere.
    (tmp_path / "0" / "results.json").unlink()
    outcome = sweep(tmp_path, "seed=0", "callbacks=full")
    assert "note: run 0 was begun with another value of optimizer.momentum in conf/, and is not continued" in outcome.err
    assert rows(outcome)[0][0] == "2"


@pytest.mark.slow
def test_a_pattern_of_ones_own_names_the_folders(tmp_path: Path) -> None:
    pattern = "hydra.sweep.subdir=${scheduler.T_max}/s${seed}"
    words = ("scheduler.T_max=5", "seed=0,1", pattern)
    assert sweep(tmp_path, *words).status == 0
    assert {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.glob("**/results.json")} == {"5/s0", "5/s1"}
    assert launched(sweep(tmp_path, *words, "threads=2")) == []


@pytest.mark.slow
def test_hydras_own_sweeper_carries_out_everything_again(tmp_path: Path) -> None:
    assert sweep(tmp_path, "seed=0").status == 0
    before = (tmp_path / "0" / "results.json").stat().st_mtime_ns
    outcome = sweep(tmp_path, "seed=0", "hydra/sweeper=basic")
    assert rows(outcome) == [["0", "completed", ANY]]
    assert (tmp_path / "0" / "results.json").stat().st_mtime_ns > before


def test_a_word_that_does_not_compose_is_refused_before_any_run(tmp_path: Path) -> None:
    outcome = sweep(tmp_path, "scheduler=step,cosin")
    assert outcome.status == 2
    assert outcome.lines[-1].startswith("error: scheduler=cosin: no such option")
    assert not (tmp_path / "0").exists()

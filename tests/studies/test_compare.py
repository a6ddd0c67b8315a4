"""What a comparison says of runs, and that no run is part of a mean in silence, or left out of one."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from noisescale.studies.compare import Arm, Comparison, compare
from noisescale.studies.compare_pictures import drawn_arms
from noisescale.studies.runs import runs_in
from tests.helpers.runs import config_of, leave_run


def comparison_of(folder: Path) -> Comparison:
    return compare([*runs_in(folder)])


def only_arm(folder: Path) -> Arm:
    (arm,) = comparison_of(folder).arms
    return arm


def test_final_values_are_those_of_the_runs_that_finished(tmp_path: Path) -> None:
    for seed, final in enumerate((0.8, 0.9)):
        leave_run(tmp_path / str(seed), [f"seed={seed}"], final=final)
    leave_run(tmp_path / "2", ["seed=2"], status="diverged", final=0.1, epochs=1)
    leave_run(tmp_path / "3", ["seed=3"], status=None)
    leave_run(tmp_path / "4", ["seed=4"], status="interrupted", final=0.2)
    arm = only_arm(tmp_path)
    assert str(arm.final("test accuracy")) == "0.8500 +- 0.0707"
    assert [member.counts for member in arm.members] == [True, True, False, False, False]
    assert arm.status == "2 completed, 1 diverged, 1 interrupted, 1 half-written"
    assert (arm.updates, arm.seconds) == ((24, 24), 2.0)


def test_a_seed_that_was_run_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    for number, seed in enumerate((0, 1, 0)):
        leave_run(tmp_path / str(number), [f"seed={seed}"], final=0.9 - number / 10)
    (arm,), notes = comparison_of(tmp_path).arms, comparison_of(tmp_path).notes
    assert [member.counts for member in arm.members] == [False, True, True]
    assert str(arm.final("test accuracy")) == "0.7500 +- 0.0707"
    assert notes == ["all runs: seed 0 was run 2 times; the last of these runs, 2, counts"]


def test_what_is_not_a_number_is_no_value(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", ["seed=0"])
    leave_run(tmp_path / "1", ["seed=1"])
    for bad in (None, float("nan"), "x"):
        results = json.loads((tmp_path / "1" / "results.json").read_text())
        (tmp_path / "1" / "results.json").write_text(json.dumps(results | {"test/acc": bad}))
        found = only_arm(tmp_path).final("test accuracy")
        assert found is not None
        assert (found.n, found.mean) == (1, 0.9)


def test_a_run_that_goes_on_shows_what_it_has_done_so_far(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "0", status="interrupted", epochs=3)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"updates": 7}))
    with (folder / "steps.csv").open("a") as steps, (folder / ".lock").open("w") as lock:
        steps.write("24,3.0,1")  # it is writing
        fcntl.flock(lock, fcntl.LOCK_EX)
        (member,) = only_arm(tmp_path).members
    assert (member.run.state, member.updates, member.seconds, member.remark) == ("running", 24, 1.5, "")
    (member,) = only_arm(tmp_path).members
    assert (member.run.state, member.remark) == ("interrupted", "why; steps.csv: 1 line cut off or unreadable")


def test_what_a_run_that_counts_lacks_is_said(tmp_path: Path) -> None:
    (leave_run(tmp_path / "0") / "epochs.csv").unlink()
    leave_run(tmp_path / "1", ["seed=1"])
    found = comparison_of(tmp_path)
    assert len(found.notes) == 1
    assert found.notes[0].endswith("0 counts, but no epochs.csv")
    curves = [member.curve("train/loss", "updates") for member in found.arms[0].members]
    assert [x for x, _ in curves] == [[8, 16, 24], [8, 16, 24]]
    assert curves[0][1][0] == pytest.approx(sum(1 / (1 + k) for k in range(8)) / 8)


def test_code_of_several_commits_is_said(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", ["seed=0"])
    leave_run(tmp_path / "1", ["seed=1"], commit="b" * 40)
    assert comparison_of(tmp_path).notes == ["the runs were begun by 2 commits: aaaaaaa, bbbbbbb"]


def test_any_metric_can_be_the_headline(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", metric="rmse", config=config_of([], "val/rmse", "min"))
    leave_run(tmp_path / "1", metric="f1", config=config_of(["epochs=2"], "val/f1", "max"))
    found = comparison_of(tmp_path)
    assert found.metrics == ["test RMSE", "test f1"]
    assert found.panels == ["train/loss", "val/loss", "val/rmse", "val/f1"]
    assert found.lasts == ["train/loss"]


def test_a_module_with_tags_of_its_own_is_drawn_too(tmp_path: Path) -> None:
    folder = leave_run(tmp_path / "0", final=None, config={"seed": 0})
    (folder / "epochs.csv").write_text("epoch,updates,examples_seen,seconds,perplexity,bleu\n1,8,64,0.5,30,\n2,16,128,0.5,20,\n")
    found = comparison_of(tmp_path)
    assert found.panels == ["train/loss", "perplexity"]  # bleu has no value, and the loss is that of steps.csv
    assert found.lasts == ["train/loss", "perplexity"]
    assert str(found.arms[0].last("perplexity")) == "20.0000"


def test_a_metric_is_shown_where_there_was_no_test(tmp_path: Path) -> None:
    leave_run(tmp_path / "0", final=None)
    found = comparison_of(tmp_path)
    assert (found.metrics, found.lasts) == ([], ["train/loss", "val/acc"])


@pytest.mark.parametrize(("mode", "metric", "drawn"), [("max", "acc", [2, 3]), ("min", "acc", [0, 1]), ("max", "f1", [0, 1])])
def test_of_too_many_arms_the_best_are_drawn(mode: str, metric: str, drawn: list[int], tmp_path: Path) -> None:
    """What is best is known only if the metric of the test is the one that is monitored; otherwise the first ones are drawn."""
    for number in range(4):
        words = [f"epochs={number + 1}"]
        leave_run(tmp_path / str(number), words, final=0.5 + number / 10, metric=metric, config=config_of(words, "val/acc", mode))
    found = comparison_of(tmp_path)
    assert drawn_arms(found, most=4) == (found.arms, [])
    arms, (note,) = drawn_arms(found, most=2)
    assert [found.arms.index(arm) for arm in arms] == drawn
    assert note == f"2 of 4 arms are drawn: {'those with the best test accuracy' if metric == 'acc' else 'the first ones'}"

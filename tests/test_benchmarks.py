"""The benchmarks run, count the same work for each contender, and keep what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import steps
from benchmarks.__main__ import ON_REQUEST, ROUNDS, main
from benchmarks.measure import Comparison, Ratio, Wanted, measure

QUIET = Console(quiet=True)


def test_a_ratio_divides_round_by_round() -> None:
    # Twice as dear in each round, on a machine that gets slower: the ratio of the medians says 4/2 too, but one of 10/1 is no round's.
    seconds = {"ours": [2.0, 4.0, 20.0], "theirs": [1.0, 2.0, 10.0]}
    ratio = Ratio.of(Wanted("ours", "theirs", at_most=2.0), seconds)
    assert (ratio.median, ratio.low, ratio.high, ratio.met, ratio.bound) == (2.0, 2.0, 2.0, True, "<= 2")
    assert Ratio.of(Wanted("ours", "theirs", at_most=1.9), seconds).met is False
    assert Ratio.of(Wanted("ours", "theirs", at_least=2.1), seconds).met is False
    assert Ratio.of(Wanted("ours", "theirs"), seconds).met is None


def test_contenders_take_turns() -> None:
    turns = []

    def contender(name: str, seconds: float) -> float:
        turns.append(name)
        return seconds

    contenders = {"a": lambda: contender("a", 3.0), "b": lambda: contender("b", 2.0)}
    measured = measure(Comparison("", contenders, [Wanted("a", "b")], once_before=True), 2, QUIET)
    assert turns == ["a", "b"] * 3
    assert (measured.medians, measured.seconds["a"], measured.ratios[0].median) == ({"a": 3.0, "b": 2.0}, [3.0, 3.0], 1.5)


@pytest.mark.filterwarnings("ignore")
def test_each_contender_of_the_steps_takes_all_of_them() -> None:
    """`fit` counts Lightning's steps itself and raises where they are others."""
    comparison = next(steps.comparisons(quick=True))
    assert list(comparison.contenders) == [steps.BY_HAND, steps.PLAIN, steps.USUAL, steps.OURS]
    assert all(contender() > 0 for contender in comparison.contenders.values())


def test_a_quick_run_is_kept_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "bench.json"
    out.parent.mkdir()
    out.write_text('{"sweep": {"when": "before"}}')
    main(["data_path", "--quick", "--out", str(out)])
    kept = json.loads(out.read_text())
    assert kept["sweep"] == {"when": "before"}
    assert {"when", "quick", "rounds", "machine", "comparisons"} == set(kept["data_path"])
    assert {"cpu", "cores", "threads", "versions", "commit"} <= set(kept["data_path"]["machine"])
    (comparison,) = kept["data_path"]["comparisons"]
    assert all(len(seconds) == 2 for seconds in comparison["seconds"].values())
    assert set(comparison["medians"]) == set(comparison["seconds"])
    assert {"cost", "to", "median", "low", "high", "at_most", "at_least", "met"} == set(comparison["ratios"][0])
    said = capsys.readouterr()
    assert "round 2 of 2" in said.err
    assert ">= 10" in said.out
    assert "examples/s" in said.out


def test_an_unknown_part_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["step"])
    assert f"step: no such part; valid: {', '.join([*ROUNDS, *ON_REQUEST])}" in capsys.readouterr().err

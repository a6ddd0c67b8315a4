"""The benchmarks run, count the same work for each contender, and save what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import compute, soak, steps, throughput
from benchmarks.__main__ import ON_REQUEST, ROUNDS, main
from benchmarks.measure import Comparison, Ratio, Wanted, measure

QUIET = Console(quiet=True)


def test_a_ratio_divides_round_by_round() -> None:
    # Twice as slow in every round, on a machine that becomes slower. A ratio of times from different rounds, such as 20/1, would be wrong.
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
    """`fit` counts Lightning's steps itself, and raises if the number is wrong."""
    comparison = next(steps.comparisons(quick=True))
    assert list(comparison.contenders) == [steps.BY_HAND, steps.PLAIN, steps.USUAL, steps.OURS]
    assert all(contender() > 0 for contender in comparison.contenders.values())


@pytest.mark.slow
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


# -- how a step is computed -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_benchmark_runs_and_sets_everything_back(tmp_path: Path) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    main(["compute", "--quick", "--rounds", "1", "--out", str(tmp_path / "bench.json")])
    kept = json.loads((tmp_path / "bench.json").read_text())["compute"]["comparisons"]
    assert {"bf16-mixed", "channels_last", "fused", "foreach"} <= set(kept[0]["medians"])
    assert all(seconds > 0 for each in kept for seconds in each["medians"].values())
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_throughput_counts_the_same_images_for_each_contender(tmp_path: Path) -> None:
    """`steps.fit` raises if the number of updates is not the one that is timed."""
    main(["throughput", "--quick", "--rounds", "1", "--out", str(tmp_path / "bench.json")])
    kept = json.loads((tmp_path / "bench.json").read_text())["throughput"]["comparisons"]
    assert [len(each["medians"]) for each in kept] == [3, 3, 5]
    assert all(seconds > 0 for each in kept for seconds in each["medians"].values())


def test_throughput_on_a_gpu_is_of_the_networks_that_are_published() -> None:
    """The rows are only described, not run."""
    described = throughput.settings(torch.device("cuda"), quick=False)
    assert [each.title.partition(",")[0] for each in described] == ["ResNet-18", "WRN-16-4"]
    assert [each.options for each in described] == [{"width": 64}, {"depth": 16, "width": 4, "dropout": 0.0}]


def test_the_benchmark_has_rows_for_a_gpu() -> None:
    """The rows are only described, not run, because they need a GPU."""
    gpu = compute.variants(torch.device("cuda"))
    assert next(iter(gpu)) == "32-true"
    assert {"tf32 (matmul precision high)", "cudnn.benchmark", "compile", "fused"} <= set(gpu)
    assert "2 threads" not in gpu
    assert {each.title.split(",")[0] for each in compute.settings(torch.device("cuda"), quick=False)} >= {"WRN-16-4", "ResNet-18"}


# -- the soak ----------------------------------------------------------------------------------------------------------------------


def test_growth_is_the_slope_of_the_second_half() -> None:
    steady = [soak.Usage(run, 500.0 + min(run, 50), 6, 2) for run in range(1, 101)]  # caches fill up at first
    assert soak.growth(steady) == 0.0
    leaking = [soak.Usage(run, 500.0 + 0.25 * run, 6, 2) for run in range(1, 101)]
    assert soak.growth(leaking) == pytest.approx(0.25)
    assert soak.growth(leaking[:1]) == 0.0


@pytest.mark.slow
def test_the_soak_counts_the_runs_of_each_process_and_reads_their_events(tmp_path: Path) -> None:
    processes = soak.soak(6, tmp_path, ["hydra/launcher=pool"])
    assert 1 <= len(processes) <= 2
    assert sorted(usage.run for usages in processes for usage in usages) == sorted(
        n for usages in processes for n in range(1, len(usages) + 1)
    )
    assert sum(map(len, processes)) == 6
    (tmp_path / "sweep" / "3" / "steps.csv").write_text("step\n0\n")
    with pytest.raises(RuntimeError, match="of run 3"):
        soak.check_events(tmp_path / "sweep", 6)

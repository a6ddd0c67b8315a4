"""A module that is divided among two processes (FSDP) is trained with the same plan, and stopped and resumed in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisescale.files import read_rows
from tests.helpers.processes import results_of_ranks

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp", "fsdp2")


def run(jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The results of both ranks for each job; the jobs run one after another in the same processes."""
    return results_of_ranks("tests.helpers.sharded_job", jobs, 2)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("sharded")
    jobs: dict[str, dict[str, Any]] = {}
    for name in STRATEGIES:
        jobs[name] = {"strategy": name}
        jobs[f"{name} weighted"] = {"strategy": name, "weighted": True}
        jobs[f"{name} stopped"] = {"strategy": name, "signal": 5}
        jobs[f"{name} resumed"] = {"strategy": name, "resume": str(folder / f"{name} stopped" / "last.ckpt")}
        jobs[f"{name} of another seed"] = {**jobs[f"{name} resumed"], "seed": 3}
    for name, job in jobs.items():
        job["folder"] = str(folder / name)
    return {name: (folder / name, result) for name, result in zip(jobs, run(list(jobs.values())), strict=True)}


def without_loss(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: row[key] for key in row if key != "loss"} for row in rows]


@pytest.mark.parametrize("kind", ["", " weighted"])
@pytest.mark.parametrize("name", STRATEGIES[1:])
def test_a_plan_is_carried_out_as_with_ddp(name: str, kind: str, results: dict[str, Any]) -> None:
    mine, ddp = (read_rows(results[f"{each}{kind}"][0] / "steps.csv") for each in (name, "ddp"))
    assert len(mine) == results[f"{name}{kind}"][1][0]["updates"] == results[f"ddp{kind}"][1][0]["updates"]
    assert without_loss(mine) == without_loss(ddp)
    # losses in single precision, with a rounding of 1.2e-7, at weights that differ by some hundred units
    assert [float(row["loss"]) for row in mine] == pytest.approx([float(row["loss"]) for row in ddp], rel=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_signal_to_one_process_stops_and_saves_both(name: str, results: dict[str, Any]) -> None:
    folder, (first, second) = results[f"{name} stopped"]
    assert first["saved"] == second["saved"] == str(folder / "last.ckpt")
    assert 5 <= first["updates"] == second["updates"] <= 7
    rest = [row for row in read_rows(results[f"{name} resumed"][0] / "steps.csv") if int(row["step"]) >= first["updates"]]
    assert [*read_rows(folder / "steps.csv"), *rest] == read_rows(results[name][0] / "steps.csv")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_checkpoint_of_another_run_is_refused(name: str, results: dict[str, Any]) -> None:
    """Also where the strategy loads it late, after the hooks that the others have behind them by then."""
    _, both = results[f"{name} of another seed"]
    assert [result.get("refused", "")[:6] for result in both] == ["seed=3", "seed=3"]


@pytest.mark.parametrize("name", STRATEGIES[1:])
def test_how_often_gradients_are_reduced(name: str, results: dict[str, Any]) -> None:
    """Once per update, with gradients that are not divided until then, or for each layer at each micro-batch: see docs/training.md."""
    folder, (first, _) = results[name]
    micro_batches = sum(int(row["accumulate_grad_batches"]) for row in read_rows(folder / "steps.csv"))
    assert micro_batches > 2 * first["updates"]
    assert first["reductions"] == {"fsdp": first["updates"], "fsdp2": 2 * micro_batches}[name]

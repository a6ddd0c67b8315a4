"""Two gloo processes do the same as one: the same updates, one all-reduce each, the same rows; they diverge and resume together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.execution.loader import PlannedLoader
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Plan
from tests.helpers.processes import results_of_ranks
from tests.helpers.regression import Regression, network
from tests.helpers.rounding import GRADIENT_ROUNDINGS, assert_equal_to_rounding

EQUAL = {
    "float64-partial": {"dtype": "float64", "last": "partial", "size": 7, "limit": 3},
    "float32-carry": {"dtype": "float32", "last": "carry", "size": 7, "limit": 3},
    # 103 examples in windows of 6: the last window has one example, so the second process has none.
    "fewer examples than processes": {"dtype": "float64", "last": "partial", "size": 6, "limit": 4},
    "sampling": {"dtype": "float64", "last": "carry", "size": 7, "limit": 3, "sampling": [1.0 + index % 5 for index in range(103)]},
}
WEIGHTED: dict[str, dict[str, Any]] = {
    "token mean": {"dtype": "float64", "last": "partial", "size": 7, "limit": 4, "problem": "token mean"},
    "class weights": {"dtype": "float32", "last": "partial", "size": 7, "limit": 4, "problem": "class weights"},
    "mask": {"dtype": "float64", "last": "partial", "size": 7, "limit": 1, "problem": "mask"},
}
"""Losses with a denominator of their own: each process has other weights; with micro-batches of one, some weights are 0."""
SAVED_AT = (3, 26)
"""Micro-batches inside an update, which has 7 or 21 examples in 2 or 6 micro-batches per process."""
NORM: dict[str, Any] = {"last": "partial", "size": 7, "limit": 3, "norm": True}
"""With batch norm 7 examples are cut into 3 + 2 and 2 + 0, so that none is alone."""


def run(jobs: list[dict[str, Any]], world: int) -> list[list[dict[str, Any]]]:
    """The results of all ranks for each job; the jobs run one after another in the same processes."""
    return results_of_ranks("tests.helpers.ddp_job", [{**job, "world": world} for job in jobs], world)


STOPPED_AT = (5, 20)
"""Updates inside the first and the second of two epochs, which have 15 updates of 7 each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of one process."""
    jobs = [{**job, "csv": str(folder / f"one-{name}.csv")} for name, job in EQUAL.items()]
    return {name: result for name, (result,) in zip(EQUAL, run(jobs, 1), strict=True)}


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of two processes, rank by rank."""
    jobs: dict[str, dict[str, Any]] = {name: {**job, "csv": str(folder / f"two-{name}.csv")} for name, job in EQUAL.items()}
    jobs["norm"] = {**NORM, "csv": str(folder / "norm.csv")}
    jobs |= {name: {**job, "csv": str(folder / f"two-{name}.csv")} for name, job in WEIGHTED.items()}
    jobs["diverged"] = {"last": "partial", "size": 7, "limit": 4, "explode": True, "csv": str(folder / "nan.csv")}
    return dict(zip(jobs, run(list(jobs.values()), 2), strict=True))


@pytest.fixture(scope="module")
def saved(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of two processes that save checkpoints, stop, and resume."""
    jobs: dict[str, dict[str, Any]] = {}
    dropout: dict[str, Any] = {"last": "partial", "size": 7, "limit": 2, "dropout": 0.3}
    jobs["whole"] = {**dropout, "csv": str(folder / "whole.csv")}
    for at in SAVED_AT:
        same = {**dropout, "csv": str(folder / f"{at}.csv")}
        jobs[f"saved {at}"] = {**same, "save": [at, str(folder / f"{at}.ckpt")]}
        jobs[f"resumed {at}"] = {**same, "resume": str(folder / f"{at}.ckpt")}
    jobs["often"] = {**dropout, "csv": str(folder / "often.csv"), "often": [str(folder / "often"), {"every_n_updates": 4}]}
    jobs["went on often"] = {**dropout, "csv": str(folder / "often.csv"), "resume": str(folder / "often" / "step=8.ckpt")}
    jobs["timed"] = {**dropout, "csv": str(folder / "timed.csv"), "often": [str(folder / "timed"), {"every_n_minutes": 0.02 / 60}]}
    jobs["epochs"] = {"folder": str(folder / "epochs"), "options": {}}
    for at in STOPPED_AT:
        name = f"stopped {at}"
        jobs[name] = {"folder": str(folder / name), "options": {"max_steps": at}, "save": str(folder / f"{name}.ckpt")}
        jobs[f"went on {at}"] = {"folder": str(folder / name), "options": {}, "resume": str(folder / f"{name}.ckpt")}
    jobs["norm"] = {**NORM, "csv": str(folder / "norm.csv")}
    for at in (3, 4):  # 4 lies between two updates
        same = {**NORM, "csv": str(folder / f"norm-{at}.csv")}
        jobs[f"norm saved {at}"] = {**same, "save": [at, str(folder / f"norm-{at}.ckpt")]}
        jobs[f"norm resumed {at}"] = {**same, "resume": str(folder / f"norm-{at}.ckpt")}
    return dict(zip(jobs, run(list(jobs.values()), 2), strict=True))


@pytest.mark.slow
def test_checkpoints_between_updates_change_nothing_and_resume_the_same_run(saved: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("often", "went on often", "timed"):
        assert [result["weights"] for result in saved[name]] == [saved["whole"][0]["weights"]] * 2
    first, second = saved["often"]
    assert first["saves"] == [step for step in range(1, first["steps"] + 1) if step % 4 == 0]
    assert second["saves"] == []
    assert saved["timed"][0]["saves"]  # both went on, so both have come to the same decisions


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTED)
def test_with_weights_every_update_has_the_gradient_of_one_big_batch(name: str, folder: Path, two: dict[str, Any]) -> None:
    roundings = 16 * torch.finfo(getattr(torch, WEIGHTED[name]["dtype"])).eps  # see test_weighting.py
    assert [result["error"] <= roundings for result in two[name]] == [True, True]
    assert two[name][0]["weights"] == two[name][1]["weights"]
    rows = read_rows(folder / f"two-{name}.csv")
    assert [float(row["loss"]) for row in rows] == pytest.approx(two[name][0]["losses"], rel=1e-5)
    if "class weights" not in name:
        assert [float(row["weight"]) for row in rows] == two[name][0]["targets"]
    assert all(result["reductions"] == result["planned"] for result in two[name])


@pytest.mark.parametrize("name", EQUAL)
def test_every_update_has_the_gradient_of_one_big_batch(name: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    dtype = getattr(torch, str(EQUAL[name]["dtype"]))
    for result in (one[name], *two[name]):
        assert result["error"] <= GRADIENT_ROUNDINGS * torch.finfo(dtype).eps
        assert result["updates"] == result["steps"] == result["planned"] == one[name]["planned"] == result["estimated"]
    assert two[name][0]["weights"] == two[name][1]["weights"]
    together, alone = (torch.tensor(result["weights"], dtype=dtype) for result in (two[name][0], one[name]))
    assert_equal_to_rounding(together, alone, 30 * GRADIENT_ROUNDINGS)  # about thirty updates


@pytest.mark.parametrize("name", EQUAL)
def test_there_is_one_all_reduce_per_update(name: str, two: dict[str, Any]) -> None:
    assert [result["reductions"] for result in two[name]] == [two[name][0]["planned"]] * 2


@pytest.mark.parametrize("name", EQUAL)
def test_the_rows_are_those_of_one_process(folder: Path, name: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    alone, together = (read_rows(folder / f"{who}-{name}.csv") for who in ("one", "two"))
    same = ("step", "epoch", "examples_seen", "lr", "effective_batch_size", "g")
    assert [[row[key] for key in same] for row in alone] == [[row[key] for key in same] for row in together]
    # The losses are sums in single precision, with a rounding of 1.2e-7, at weights that differ by some hundred units.
    assert [float(row["loss"]) for row in together] == pytest.approx([float(row["loss"]) for row in alone], rel=1e-4)
    assert all(int(row["micro_batch_size"]) <= EQUAL[name]["limit"] for row in together)  # type: ignore[operator]


def test_processes_share_the_draws_of_one(one: dict[str, Any], two: dict[str, Any]) -> None:
    alone = sorted(index for part in one["sampling"]["seen"] for index in part)
    together = sorted(index for result in two["sampling"] for part in result["seen"] for index in part)
    assert alone == together
    assert len(set(alone)) < 103 < len(alone) / 3 + 1


def test_some_update_has_fewer_examples_than_processes(folder: Path, two: dict[str, Any]) -> None:
    assert "1" in {row["effective_batch_size"] for row in read_rows(folder / "two-fewer examples than processes.csv")}


def test_a_divergence_stops_both_at_the_same_update(two: dict[str, Any]) -> None:
    first, second = two["diverged"]
    assert first["diverged"]
    assert second["diverged"]
    assert first["steps"] == second["steps"] < first["planned"] - 1


@pytest.mark.slow
@pytest.mark.parametrize("at", SAVED_AT)
def test_a_run_resumed_inside_an_update_is_bit_for_bit_the_whole_one(at: int, saved: dict[str, Any]) -> None:
    for rank in (0, 1):
        assert saved[f"resumed {at}"][rank]["weights"] == saved["whole"][0]["weights"] != saved[f"saved {at}"][0]["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("at", STOPPED_AT)
def test_a_run_that_was_stopped_inside_an_epoch_goes_on_to_be_the_whole_one(folder: Path, at: int, saved: dict[str, Any]) -> None:
    """Its training metrics, too, which are means over the examples of both processes in both runs."""
    assert [result["steps"] for result in saved[f"stopped {at}"]] == [at, at]
    assert saved[f"went on {at}"] == saved["epochs"]
    parts, whole = folder / f"stopped {at}", folder / "epochs"
    assert (parts / "steps.csv").read_text() == (whole / "steps.csv").read_text()
    mine, other = (read_rows(each / "epochs.csv") for each in (parts, whole))
    assert len(other) == 2
    for row, expected in zip(mine, other, strict=True):
        assert {"train/acc", "train/loss", "val/acc"} <= set(expected)
        assert {name: row[name] for name in row if "second" not in name} == {name: expected[name] for name in row if "second" not in name}


def test_running_statistics_are_the_mean_over_all_examples_of_each_update(two: dict[str, Any]) -> None:
    """By hand in one process: each device runs its pieces from the statistics that all devices had before the update."""
    net, data = network(norm=True), Regression()
    chosen = batching.MultiStep(size=7, milestones=[0.6, 1.5], factor=3, last="partial")
    plan = Plan(schedules.Cosine(3), chosen, len(data), 3, world_size=2, max_micro_batch_size=3, min_micro_batch_size=2)
    loader = PlannedLoader(lambda: DataLoader(data, shuffle=True), lambda n: plan, 2, 0, lambda: 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    statistics = {name: buffer for name, buffer in net.named_buffers() if buffer.is_floating_point()}
    placeholders = 0
    for update in plan:
        before = {name: buffer.clone() for name, buffer in statistics.items()}
        after = {name: torch.zeros_like(buffer) for name, buffer in statistics.items()}
        optimizer.zero_grad()
        for rank in (0, 1):
            for name, buffer in statistics.items():
                buffer.copy_(before[name])
            pieces = [(position, size) for position, size in plan.pieces(update, rank) if size]
            placeholders += update.accumulate_grad_batches - len(pieces)
            for position, size in pieces:
                indices = loader.indices(position, size)
                loss = F.mse_loss(net(data.x[indices]), data.y[indices])
                (loss * size / update.effective_batch_size).backward()
            for name, buffer in statistics.items():
                after[name] += buffer * sum(size for _, size in pieces) / update.effective_batch_size
        for name, buffer in statistics.items():
            buffer.copy_(after[name])
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * update.lr_factor
        optimizer.step()
    assert placeholders > 0
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    for result in two["norm"]:
        assert_equal_to_rounding(torch.tensor(result["weights"], dtype=torch.float64), flat, 100 * GRADIENT_ROUNDINGS)
        for name, buffer in statistics.items():
            found = torch.tensor(result["buffers"][f"net.{name}"], dtype=torch.float64)
            assert_equal_to_rounding(found, buffer, 100 * GRADIENT_ROUNDINGS)


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 4])
def test_a_resumed_run_has_the_running_statistics_of_the_whole_one_bit_for_bit(at: int, saved: dict[str, Any]) -> None:
    for rank in (0, 1):
        for key in ("weights", "buffers"):
            assert saved[f"norm resumed {at}"][rank][key] == saved["norm"][0][key] != saved[f"norm saved {at}"][0][key]

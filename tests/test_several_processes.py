"""Two gloo processes do what one does: the same updates, one all-reduce each, the same rows; they diverge and resume together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from noisescale.callbacks.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent


def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The result of each rank."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    world = job["world"]
    plain = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE")}
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    ranks = []
    for rank in range(world):
        env = {**plain, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        if world > 1:
            env |= {**rendezvous, "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", "tests.ddp_job", json.dumps(job)]
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    results = []
    for process in ranks:
        out, err = process.communicate(timeout=120)
        lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
        assert lines, err[-3000:]
        results.append(json.loads(lines[0][len("RESULT ") :]))
    return results


@cache
def both(folder: Path, dtype: str, last: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    job = {"dtype": dtype, "last": last, "size": 7, "limit": 3}
    one = run({**job, "world": 1, "csv": str(folder / f"one-{dtype}-{last}.csv")})
    two = run({**job, "world": 2, "csv": str(folder / f"two-{dtype}-{last}.csv")})
    return one, two


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ddp")


CASES = [("float64", "partial", 1e-12), ("float32", "carry", 1e-6)]


@pytest.mark.parametrize(("dtype", "last", "tolerance"), CASES)
def test_every_update_has_the_gradient_of_one_big_batch(folder: Path, dtype: str, last: str, tolerance: float) -> None:
    one, two = both(folder, dtype, last)
    for result in (*one, *two):
        assert result["error"] <= tolerance
        assert result["updates"] == result["steps"] == result["planned"] == one[0]["planned"]
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["weights"] == pytest.approx(one[0]["weights"], rel=30 * tolerance, abs=30 * tolerance)


@pytest.mark.parametrize(("dtype", "last", "tolerance"), CASES)
def test_there_is_one_all_reduce_per_update(folder: Path, dtype: str, last: str, tolerance: float) -> None:
    _, two = both(folder, dtype, last)
    assert [result["reductions"] for result in two] == [two[0]["planned"]] * 2


@pytest.mark.parametrize(("dtype", "last", "tolerance"), CASES)
def test_the_rows_are_those_of_one_process(folder: Path, dtype: str, last: str, tolerance: float) -> None:
    both(folder, dtype, last)
    one, two = (read_rows(folder / f"{name}-{dtype}-{last}.csv") for name in ("one", "two"))
    same = ("step", "epoch", "examples_seen", "lr", "effective_batch_size", "g")
    assert [[row[key] for key in same] for row in one] == [[row[key] for key in same] for row in two]
    assert [float(row["loss"]) for row in two] == pytest.approx([float(row["loss"]) for row in one], rel=1e-4)
    assert all(int(row["micro_batch_size"]) <= 3 for row in two)


def test_fewer_examples_than_processes_leave_one_without(folder: Path) -> None:
    """103 examples in windows of 6: the last has one example, and the second process none."""
    (one,) = run({"last": "partial", "size": 6, "limit": 4, "world": 1, "csv": str(folder / "few1.csv")})
    two = run({"last": "partial", "size": 6, "limit": 4, "world": 2, "csv": str(folder / "few2.csv")})
    assert max(result["error"] for result in two) <= 1e-12
    assert two[0]["weights"] == pytest.approx(one["weights"], rel=1e-10)
    assert "1" in {row["effective_batch_size"] for row in read_rows(folder / "few2.csv")}


def test_a_divergence_stops_both(folder: Path) -> None:
    results = run({"last": "partial", "size": 7, "limit": 4, "explode": True, "world": 2, "csv": str(folder / "nan.csv")})
    assert [result["diverged"] for result in results] == [True, True]
    assert results[0]["steps"] == results[1]["steps"] <= 3


@pytest.mark.parametrize("at", [3, 26])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(folder: Path, at: int) -> None:
    """Saved inside an update (7 or 21 examples in 2 or 4 micro-batches per process), with dropout."""
    job: dict[str, Any] = {"last": "partial", "size": 7, "limit": 2, "dropout": 0.3, "world": 2, "csv": str(folder / f"resume{at}.csv")}
    whole = run(job)
    path = str(folder / f"in{at}.ckpt")
    run({**job, "save": [at, path]})
    resumed = run({**job, "resume": path})
    assert resumed[0]["weights"] == whole[0]["weights"]
    assert resumed[1]["weights"] == whole[0]["weights"]

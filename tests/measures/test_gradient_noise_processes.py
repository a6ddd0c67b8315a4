"""Two gloo processes measure the gradient noise that one process measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.gradient_noise import rows_of
from tests.helpers.processes import results_of_ranks

JOBS: dict[str, dict[str, Any]] = {
    "one piece each": {"tokens": False, "limit": None},
    "several pieces": {"tokens": False, "limit": 2},
    "tokens": {"tokens": True, "limit": 2},
}
"""The sizes are multiples of four, so that one process has the pieces that two have: other pieces give another estimate of the same."""


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    found: dict[int, list[list[dict[str, Any]]]] = {}
    for world in (1, 2):
        jobs = [{**job, "world": world, "csv": str(tmp_path / f"{world}-{name}.csv")} for name, job in JOBS.items()]
        found[world] = results_of_ranks("tests.helpers.gradient_noise_job", jobs, world)
    for name, (one,), (first, second) in zip(JOBS, found[1], found[2], strict=True):
        assert first["averages"] == second["averages"]
        assert first["averages"] == pytest.approx(one["averages"], rel=1e-9)
        assert first["weights"] == pytest.approx(one["weights"], rel=1e-9, abs=1e-12)
        alone, together = (rows_of(tmp_path / f"{world}-{name}.csv") for world in (1, 2))
        assert len(alone) > 10
        for row, other in zip(alone, together, strict=True):
            assert other == pytest.approx(row, rel=1e-6, abs=1e-9, nan_ok=True)

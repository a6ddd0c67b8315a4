"""plan.py and train.py with a plan that is decided during the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import plan, run, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

FAST = ("data.subset_size=300", "callbacks=[light,gns]", "callbacks.gradient_noise.every_n_updates=2", "threads=1", "logger=csv-only")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["batch=gns", "callbacks=[full,gns]", "batch.max_size=256", "epochs=5"],
            [
                "from noise/gns, noise/gns_low;",
                "B: 32 at the start, 8 to 256 later, changed by at most 2x",
                "lr: 0.05 at the start",
                "updates: 26 to 810",
            ],
        ),
        (
            ["batch=plateau", "scheduler=constant", "epochs=5"],
            ["from val/loss;", "B: 32 at the start, 32 to 129 later", "updates: 51 to 205"],
        ),
        (["scheduler=plateau"], ["from val/loss;", "B: 32 at the start, and stays", "updates: 809 to 820"]),
    ],
)
def test_a_plan_that_is_decided_during_the_training_has_bounds(words: list[str], lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text("of another plan")
    outcome = plan(*words, run_dir(tmp_path))
    assert outcome.status == 0
    for line in lines:
        assert line in outcome.out
    assert not (tmp_path / "plan.csv").exists()
    assert (tmp_path / "plan.csv.1").read_text() == "of another plan"


@pytest.mark.parametrize(
    "words",
    [
        ["batch=gns", "batch.max_size=100"],
        pytest.param(["batch=plateau", "batch.size=10", "batch.patience=0", "batch.threshold=0.9"], marks=pytest.mark.slow),
        pytest.param(
            ["scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.9", "batch=dual", "batch.size=10"], marks=pytest.mark.slow
        ),
    ],
)
def test_train_carries_it_out(words: list[str], tmp_path: Path) -> None:
    assert run(*FAST, *words, "epochs=4", run_dir(tmp_path)).status == 0
    sizes = [int(row["effective_batch_size"]) for row in read_rows(tmp_path / "steps.csv")]
    assert len(set(sizes)) > 1
    assert len(read_rows(tmp_path / "gradient_noise.csv")) > 5

"""plan.py answers bad input in one line, as train.py does, and takes whatever that takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.front_door import Outcome, plan, run, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

N = 1293


def planned(folder: Path, *arguments: str) -> Outcome:
    """Run plan.py, which must succeed, with `folder` as its output folder."""
    outcome = plan(*arguments, run_dir(folder))
    assert outcome.status == 0, outcome.err
    return outcome


EXAMPLES = "must be a whole number of examples, at least 1"
# The arguments -> the error message; "..." stands for the rest of it.
TABLE: list[tuple[str, str]] = [
    ("scheduler=cosin", "scheduler=cosin: no such option, did you mean cosine?; valid: ..."),
    ("batch=duel", "batch=duel: no such option, did you mean dual?; valid: ..."),
    ("data.size=0", f"data.size=0: {EXAMPLES}; null for the size of the data set"),
    ("data.size=-1", f"data.size=-1: {EXAMPLES}; null for the size of the data set"),
    ("data.size=2.5", f"data.size=2.5: {EXAMPLES}; null for the size of the data set"),
    ("data.subset_size=9999", "data.subset_size=9999: the training set has 1437 examples; choose 1 to 1437, or null for all"),
    ("data.val_fraction=1", "data.val_fraction=1: must be a finite number in [0, 1)"),
    ("epochs=0", "epochs=0: must be a whole number of epochs, at least 1"),
    ("trainer.devices=0", "trainer.devices=0: must be a whole number of devices, 1 to 100000"),
    ("trainer.devices=auto", "trainer.devices=auto: must be a whole number of devices, 1 to 100000"),
    ("trainer.max_steps=0", "trainer.max_steps=0: must be a whole number of updates, at least 1; -1 for no limit"),
    (
        "trainer.limit_train_batches=0.5",
        "trainer.limit_train_batches=0.5: must be a whole number of updates of each epoch, at least 1; 1.0 for the whole epoch",
    ),
    ("plan_csv_rows=-1", "plan_csv_rows=-1: must be a whole number of updates, at least 0; null for any number"),
    ("max_micro_batch_size=0", f"max_micro_batch_size=0: {EXAMPLES}; auto for the most that fit, null for no limit"),
    ("optimizer.lr=0", "optimizer.lr=0: must be a finite number in (0, inf)"),
    ("batch.size=1294", "batch.size=1294: must be at most N = 1293, the examples of one pass; use batch=full for all of them"),
    ("batch=dual batch.size=1293", "batch.size=1293: must be below N = 1293: a full batch has no noise to match; use batch=full"),
    ("batch=dual batch.size=1294", "batch.size=1294: must be at most N = 1293, the examples of one pass; use batch=full for all of them"),
    (
        "batch=dual batch.max_size=31",
        "batch.max_size=31: must be a whole number of examples, at least 32; the batch starts at `size`; null for N/10",
    ),
    (
        "batch=dual batch.max_size=1294",
        "batch.max_size=1294: must be at most N = 1293, the examples of one pass; use batch=full for all of them",
    ),
    (
        "batch=dual batch.growth=2",
        "batch.growth=2: must be a finite number in [0, 1]; 0 decays the learning rate, 1 grows the batch",
    ),
    (
        "model=resnet18 batch.size=4 batch.last=partial",
        "batch.last=partial: update 323 has 1 example, and batch norm needs at least 2; use carry, drop or spread, or another size",
    ),
    (
        "model=resnet9 max_micro_batch_size=1",
        "max_micro_batch_size=1: batch norm needs at least 2 examples in a micro-batch; use 3 or more",
    ),
    ("batch=dual batch.rule=x", "batch.rule=x: must be one of sgd, adaptive"),
    ("batch=dual batch.match=x", "batch.match=x: must be one of exact, ratio"),
    ("batch=cyclic batch.base_factor=0", "batch.base_factor=0: must be a finite number in (0, 1]"),
    ("batch=dual batch.match_last=3", "batch.match_last=3: must be true or false"),
    ("batch.match_last=maybe", "batch.match_last=maybe: must be true or false"),
    ("batch=dual batch.milestones=[3]", "batch.milestones: unknown key; choose batch=multistep first; keys of batch: ..."),
    ("data=cifar10 data.name=svhn", "data.name=svhn: must be one of mnist, fashion_mnist, cifar10, cifar100"),
]


@pytest.mark.cases(8)
@pytest.mark.parametrize(("typed", "line"), TABLE, ids=[typed for typed, _ in TABLE])
def test_bad_input_is_one_line(typed: str, line: str, tmp_path: Path) -> None:
    outcome = plan(*typed.split(), run_dir(tmp_path))
    assert (outcome.status, outcome.out) == (2, ""), outcome
    said = [text for text in outcome.lines if not re.match(r"batch\.rule=\w+ follows", text)]
    assert len(said) == 1, outcome.err
    found = said[0].removeprefix("error: ")
    assert said[0] == f"error: {found}"
    assert found == line or (line.endswith("...") and found.startswith(line[:-3])), found
    assert not list(tmp_path.glob("plan.*"))


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("data.size=100", "data.size=100: replaces the data, and is only for plan.py; leave it at null to train"),
        ("batch=dual batch.size=1293", "batch.size=1293: must be below N = 1293: a full batch has no noise to match; use batch=full"),
        (
            "batch=dual batch.growth=2",
            "batch.growth=2: must be a finite number in [0, 1]; 0 decays the learning rate, 1 grows the batch",
        ),
    ],
)
def test_train_refuses_the_same_and_a_size_without_data(typed: str, line: str, tmp_path: Path) -> None:
    outcome = run(*typed.split(), run_dir(tmp_path))
    assert outcome.status == 2
    assert outcome.lines[-1] == f"error: {line}"
    assert not list(tmp_path.glob("*.csv"))


def test_whatever_train_takes_plan_takes(tmp_path: Path) -> None:
    """plan.py accepts overrides that mean nothing to a plan, even values that only Lightning or torch would refuse."""
    words = ["model=wrn", "logger=csv-only", "callbacks=none", "debug=fast", "seed=7", "+trainer.profiler=simple", "model.width=1"]

    assert "36 updates" in planned(tmp_path, *words).out
    assert "updates" in planned(tmp_path, "experiment=cosine_tmax150", "optimizer=adam").out

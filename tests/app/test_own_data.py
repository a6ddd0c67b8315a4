"""A user's own data at the front doors: what is planned, what is trained on, what only the first batch shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers import own
from tests.helpers.front_door import plan, results_of, run, run_dir
from tests.helpers.own_words import HERE, SHORT, refusal, trained, typed
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("words", "n"),
    [
        (typed(data="Data"), 100),
        ([*typed(data="Data"), "data.n=77"], 77),
        ([*typed(data="Data"), "data.size=5000"], 5000),
        ([*typed(data="WithSize"), "data.size=50"], 100),  # a key of the class, not the template's
    ],
)
def test_plans_of_data_of_ones_own(words: list[str], n: int, tmp_path: Path) -> None:
    outcome = plan(*words, "batch.size=8", run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"N = {n}, ")


def test_a_plan_for_a_module_with_its_own_optimizer_says_what_it_assumes(tmp_path: Path) -> None:
    outcome = plan(*typed(module="Module", data="Data"), run_dir(tmp_path))
    assert outcome.status == 0
    words = "makes its own optimizer, known only when it runs: lr and g are those of SGD with a learning rate of 1"
    assert f"note: module._target_={HERE}.Module {words}" in outcome.lines


def test_a_loss_with_a_denominator_of_its_own_gets_its_weight_by_name(tmp_path: Path) -> None:
    """The limit of the micro-batch then changes nothing but rounding, and without the weight a line says what is wrong."""
    words = [*typed(module="Weighted", data="Data"), *SHORT, "batch.size=16"]
    weight = f"micro_batch_weight={HERE}.target_tokens"
    losses = []
    for name, limit in (("whole", "null"), ("cut", "3")):
        outcome = run(*words, weight, f"max_micro_batch_size={limit}", run_dir(tmp_path / name))
        assert outcome.status == 0, outcome.err
        assert "accumulated gradients" not in outcome.err
        losses.append([float(row["loss"]) for row in read_rows(tmp_path / name / "steps.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.warns(UserWarning, match="accumulated gradients .*: the loss is a mean over something other than examples"):
        assert run(*words, "max_micro_batch_size=3", run_dir(tmp_path / "without")).status == 0


def test_data_of_ones_own_with_a_task_of_the_template(tmp_path: Path) -> None:
    words = [
        *typed(data="Described"),
        "task=regression",
        "model=logistic",
        "optimizer.lr=0.02",
        "epochs=20",
        "threads=1",
        "logger=csv-only",
    ]
    assert run(*words, run_dir(tmp_path)).status == 0
    assert results_of(tmp_path)["test/rmse"] < 0.2  # the noise of the targets is 0.1; always saying the mean gives 2.3
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_a_random_split_is_the_same_for_the_plan_training_and_test_and_follows_the_seed(tmp_path: Path) -> None:
    """Otherwise four in five test examples would have been trained on."""
    words = typed(data="Split", module="Module")
    own.SPLITS.clear()
    trained(tmp_path / "a", *words)
    assert len(own.SPLITS) >= 3
    assert len({tuple(split.items()) for split in own.SPLITS}) == 1
    first = own.SPLITS[0]
    own.SPLITS.clear()
    trained(tmp_path / "b", *words, "seed=1")
    assert own.SPLITS[0] != first


def test_the_batch_size_of_the_users_loader_is_not_ignored_in_silence(tmp_path: Path) -> None:
    outcome = plan(*typed(data="Data"), "data.batch_size=50", run_dir(tmp_path))
    assert "note: data.batch_size=50 does not decide the batches of the training, which batch=small does" in outcome.lines


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (typed(data="Described"), "task=classification: needs whole numbers as targets, not torch.float32; use task=regression"),
        (
            [*typed(data="Triples"), "task=regression"],
            "data=list of Tensor, Tensor, Tensor: a task needs batches of two tensors, (inputs, targets); for other batches set "
            "module._target_ to a LightningModule of your own",
        ),
        (
            typed(data="TooManyClasses"),
            "task=classification: the network has 3 outputs, for the classes 0 to 2; the targets are 0 to 4",
        ),
        (
            [*typed(data="TooManyClasses"), "task=regression"],
            "task=regression: needs one output for each number of the targets; the network gives outputs of shape (32, 3) for targets of "
            "shape (32,)",
        ),
        (
            ["data=diabetes", f"task.loss={HERE}.one_for_each"],
            "task.loss=one_for_each: must give one number, the mean over the examples of the batch, not a tensor of shape (32,)",
        ),
    ],
)
def test_what_only_the_first_batch_shows_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    assert refusal(*words, folder=tmp_path) == line

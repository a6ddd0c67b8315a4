"""What the library says, in the names of the command line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from noisescale.app.messages import line
from noisescale.app.spelling import as_typed
from noisescale.errors import ConfigError
from tests.helpers.front_door import run, run_dir
from tests.helpers.trainings import ignored

HERE = "tests.helpers.own"
SHORT = ("epochs=1", "threads=1", "logger=csv-only", "callbacks=light", "scheduler=constant")

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "of it, not 0.5. Give weight=..., a function of the batch",
            "of it, not 0.5. Give micro_batch_weight=..., a function of the batch",
        ),
        ("depends on how a batch is cut (reason); see weight=", "depends on how a batch is cut (reason); see micro_batch_weight="),
        ("Give micro_batch_weight=..., a function", "Give micro_batch_weight=..., a function"),
        ("weight is not the denominator of the loss", "micro_batch_weight is not the denominator of the loss"),
        ("check_cuts=False turns this check off)", "check_cuts=false turns this check off)"),
        ("the strategy has last='carry'; give it last='drop'", "batch.last is carry; set batch.last=drop"),
        ("match=exact: keeps g; set it to ratio, which", "batch.match=exact: keeps g; set batch.match=ratio, which"),
        ("seed has no effect: use BatchSizeScheduler(seed=...)", "seed has no effect: set seed=..."),
        ("batch.size=3: weight_decay=0.1, and weights of 3", "batch.size=3: weight_decay=0.1, and weights of 3"),
    ],
)
def test_a_message_of_the_library_has_the_names_of_the_command_line(words: str, expected: str) -> None:
    assert as_typed(words) == expected


def test_an_error_has_them_in_its_key_too() -> None:
    assert line(ConfigError("weight", -1.0, "must be a finite number >= 0")) == "micro_batch_weight=-1.0: must be a finite number >= 0"


def test_the_notes_of_a_training_have_them(tmp_path: Path) -> None:
    """A loss that is a mean over tokens, cut into micro-batches, from a loader that would drop the last batch."""
    words = (f"module._target_={HERE}.Weighted", f"data._target_={HERE}.Dropping", "batch.size=16", "max_micro_batch_size=3")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = run(*words, *SHORT, run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    said = " ".join(warnings.formatwarning(each.message, each.category, each.filename, each.lineno) for each in caught)
    assert "Give micro_batch_weight=..." in said
    assert "check_cuts=false" in said
    assert "batch.last is carry; set batch.last=drop" in said


def test_a_sampler_of_ones_own_gets_a_remedy_that_the_command_line_has(tmp_path: Path) -> None:
    outcome = run(f"module._target_={HERE}.Module", f"data._target_={HERE}.OwnSampler", *SHORT, run_dir(tmp_path))
    assert outcome.status == 2
    assert "sampling_weights" not in outcome.err
    assert "a WeightedRandomSampler of N draws" in outcome.err

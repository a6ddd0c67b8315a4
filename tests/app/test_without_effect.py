"""A word that changes nothing in a run, and an added callback that is used alone, are said in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.front_door import QUICK, plan, run, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

ALL = "no steps.csv, no epochs.csv, no checkpoints, no stop when the loss becomes nan or inf"

SAID = [
    ("callbacks=gns", f"callbacks=gns alone: {ALL}; callbacks=[full,gns] adds it to what there usually is"),
    ("callbacks=sharpness", f"callbacks=sharpness alone: {ALL}; callbacks=[full,sharpness] adds it to what there usually is"),
    (
        "callbacks=[gns,sharpness]",
        f"callbacks=[gns,sharpness] alone: {ALL}; callbacks=[full,gns,sharpness] adds them to what there usually is",
    ),
    ("micro_batch_margin=0.2", "micro_batch_margin=0.2 has no effect: it is the margin of max_micro_batch_size=auto, and that is null"),
    (
        "micro_batch_margin=0 max_micro_batch_size=16",
        "micro_batch_margin=0 has no effect: it is the margin of max_micro_batch_size=auto, and that is 16",
    ),
    ("split_every=4", "split_every=4 cuts updates that nothing measures; callbacks=[full,gns] does"),
    ("batch.match_last=true", "batch.match_last=true has no effect: with batch.last=carry no window is smaller"),
    ("batch.reference_size=8", "batch.reference_size=8 has no effect: it is for batch.lr_rule=linear and sqrt"),
    (
        "callbacks=[full,sharpness] callbacks.sharpness.every_n_epochs=3",
        "callbacks.sharpness.every_n_epochs=3 is more than epochs=1: it is measured at the end only",
    ),
]

NOT_SAID = [
    "callbacks=none",
    "callbacks=light",
    "callbacks=[light,gns]",
    "callbacks=[full,gns] split_every=5 callbacks.gradient_noise.every_n_updates=5",
    "batch.match_last=true batch.last=partial",
    "batch.reference_size=8 batch.lr_rule=linear",
    "callbacks=[full,sharpness] callbacks.sharpness.every_n_epochs=1",
]


@pytest.mark.cases(2)
@pytest.mark.parametrize(("typed", "line"), SAID)
def test_a_word_without_an_effect_is_said(typed: str, line: str, tmp_path: Path) -> None:
    outcome = plan(*QUICK, *typed.split(), run_dir(tmp_path))
    assert outcome.status == 0
    assert f"note: {line}" in outcome.lines


@pytest.mark.cases(1)
@pytest.mark.parametrize("typed", NOT_SAID)
def test_a_word_with_an_effect_is_not(typed: str, tmp_path: Path) -> None:
    outcome = plan(*QUICK, *typed.split(), run_dir(tmp_path))
    assert outcome.status == 0
    assert not [line for line in outcome.lines if " alone: " in line or "no effect" in line or "nothing" in line or "more than" in line]


@pytest.mark.slow
def test_what_depends_on_the_number_of_updates_is_said_by_the_training(tmp_path: Path) -> None:
    words = ("callbacks=[full,gns]", "callbacks.gradient_noise.every_n_updates=7", "logger=csv-only")
    outcome = run(*QUICK, *words, run_dir(tmp_path))
    line = "note: callbacks.gradient_noise.every_n_updates=7 is more than the 6 updates of the training: nothing is measured"
    assert line in outcome.lines


@pytest.mark.slow
def test_a_batch_of_batch_sharpness_beyond_the_data_is_said(tmp_path: Path) -> None:
    cheap = ("examples=60", "batches=2", "subspace=100000", "iterations=1", "batch_size=5000")
    words = ("callbacks=[full,sharpness]", "logger=csv-only", "model.widths=[8]", *(f"callbacks.sharpness.{word}" for word in cheap))
    outcome = run(*QUICK, *words, run_dir(tmp_path))
    assert "Sharpness: batch_size=5000 is more than N = 180, so that batch sharpness is that of all examples" in outcome.lines
    assert "Sharpness: subspace=100000 is more than the 610 parameters, so that it is the full space" in outcome.lines

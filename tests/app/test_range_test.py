"""range_test.py: the front door of the range test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, range_test, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def test_it_leaves_its_files_and_says_what_to_type(tmp_path: Path) -> None:
    outcome = range_test(*QUICK, "range_test.updates=100", "batch.size=32", run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    results = json.loads((tmp_path / "range_test.json").read_text())
    assert results["batch_size"] == 32
    for name, rate in results["suggestions"].items():
        assert f"{name:10} optimizer.lr={rate:.3g}: " in outcome.out
    assert len(read_rows(tmp_path / "range_test.csv")) > 20
    assert (tmp_path / "range_test.png").exists()


@pytest.mark.slow
def test_a_suggestion_is_quoted_for_the_reference_size(tmp_path: Path) -> None:
    words = ("batch.lr_rule=linear", "batch.reference_size=8", "batch.size=32", "range_test.updates=100")
    outcome = range_test(*QUICK, *words, run_dir(tmp_path))
    results = json.loads((tmp_path / "range_test.json").read_text())
    assert results["lr_factor"] == 4.0
    assert f"optimizer.lr={results['suggestions']['steepest'] / 4:.3g}: where" in outcome.out


@pytest.mark.slow
def test_nothing_is_suggested_where_nothing_is_learned(tmp_path: Path) -> None:
    outcome = range_test(*QUICK, "range_test.updates=20", "range_test.highest=2e-5", run_dir(tmp_path))
    assert outcome.status == 0
    assert "no suggestion: the loss does not fall by 5 %, or not by more than chance" in outcome.out
    assert set(json.loads((tmp_path / "range_test.json").read_text())["suggestions"].values()) == {None}

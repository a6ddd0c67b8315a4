"""`max_micro_batch_size=auto` on the command line: what is found is said, recorded, and taken by a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisescale.execution import micro_batch_limit
from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, plan, results_of, run, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

HUNGRY = (
    *("module._target_=tests.helpers.hungry.HungryInDouble", "data._target_=tests.helpers.own.Data", "module.limit=9", "batch.size=20"),
    *("epochs=3", "threads=1", "logger=csv-only"),
)


def refused(*_: Any, **__: Any) -> bool:
    pytest.fail("a size was tried")


@pytest.mark.slow
def test_what_is_found_is_recorded_and_taken_by_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand, cut = tmp_path / "by hand", tmp_path / "cut"
    assert run(*HUNGRY, "max_micro_batch_size=8", run_dir(by_hand)).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(micro_batch_limit, "has_memory_of_its_own", lambda device: True)
        outcome = run(*HUNGRY, "max_micro_batch_size=auto", "trainer.max_steps=7", run_dir(cut))
        assert outcome.status == 0, outcome.err
        assert any(line.startswith("max_micro_batch_size=auto: 8; 9 fitted, less a margin of 10 % (") for line in outcome.lines)
        assert results_of(cut)["max_micro_batch_size"] == 8
        patch.setattr(micro_batch_limit, "fits", refused)
        outcome = run(f"resume={cut}", "trainer.max_steps=-1")
    assert outcome.status == 0, outcome.err
    assert "auto" not in outcome.err
    assert results_of(cut)["max_micro_batch_size"] == results_of(by_hand)["max_micro_batch_size"] == 8
    assert (cut / "steps.csv").read_text() == (by_hand / "steps.csv").read_text()
    assert {int(row["effective_batch_size"]) for row in read_rows(cut / "steps.csv")} == {20}


@pytest.mark.slow
def test_on_the_cpu_there_is_no_limit_and_the_plan_shows_none(tmp_path: Path) -> None:
    outcome = run(*QUICK, "max_micro_batch_size=auto", "callbacks=light", "logger=csv-only", run_dir(tmp_path / "run"))
    assert outcome.status == 0, outcome.err
    note = "note: max_micro_batch_size=auto sets no limit on the CPU, which has no memory of its own that could be searched"
    assert note in outcome.lines
    assert results_of(tmp_path / "run")["max_micro_batch_size"] is None
    found = plan(*QUICK, "max_micro_batch_size=auto", run_dir(tmp_path / "plan"))
    assert found.status == 0, found.err
    assert "note: max_micro_batch_size=auto is found where the training starts; this plan has no limit" in found.lines


@pytest.mark.slow
def test_a_run_of_a_sweep_that_went_on_with_half_its_micro_batch_is_still_one_of_the_sweep(tmp_path: Path) -> None:
    sweep = ("-m", *HUNGRY, "max_micro_batch_size=10", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert run(*sweep, "module.after=13").status == 2
    for number in (0, 1):
        assert run(f"resume={tmp_path}/{number}", "max_micro_batch_size=5").status == 0
    outcome = run(*sweep, "module.after=13")
    assert outcome.status == 0, outcome.err
    assert "2 kept, because they are complete" in outcome.err
    assert not (tmp_path / "2").exists()

"""The folder of a run: for one run at a time, cleared of an earlier one, with a record from which the run can be repeated."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from noisescale.app.run_folder import held
from noisescale.files import read_rows
from tests.helpers.front_door import plan, results_of, run, run_dir
from tests.helpers.resuming import SHORT, assert_same_run, files, refusal, resumed
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


# -- a run that is repeated from its record -----------------------------------------------------------------------------------


def test_a_run_with_an_open_rule_is_repeated_from_its_own_record(tmp_path: Path) -> None:
    words = (*SHORT, "batch=dual", "batch.size=8", "optimizer=adam", "callbacks=light")
    assert run(*words, run_dir(tmp_path / "a b")).status == 0
    again = ("--config-path", str(tmp_path / "a b" / ".hydra"), "--config-name", "config")
    outcome = run(*again, run_dir(tmp_path / "again"))
    assert outcome.status == 0, outcome.err
    assert "note: batch.rule=sgd follows optimizer=adam" in outcome.lines
    assert (tmp_path / "again" / "steps.csv").read_text() == (tmp_path / "a b" / "steps.csv").read_text()
    for key in ("overrides", "choices"):
        assert results_of(tmp_path / "again")[key] == results_of(tmp_path / "a b")[key]


@pytest.mark.slow
def test_so_is_its_plan_and_a_group_still_comes_from_conf(stopped: Path, tmp_path: Path) -> None:
    again = ("--config-path", str(stopped / ".hydra"), "--config-name", "config")
    assert plan(*again, "trainer.max_steps=-1", run_dir(tmp_path / "plan")).status == 0
    assert len(read_rows(tmp_path / "plan" / "plan.csv")) == 18
    outcome = run(*again, "scheduler=step", "seed=3", run_dir(tmp_path / "other"))
    assert outcome.status == 0, outcome.err
    choices = results_of(tmp_path / "other")["choices"]
    assert (choices["scheduler"], choices["batch"], choices["seed"]) == ("step", "small", 3)


@pytest.mark.slow
def test_a_resumed_run_can_be_repeated_too(whole: Path, stopped: Path, tmp_path: Path) -> None:
    assert resumed(stopped, "trainer.max_steps=9").status == 0
    record = stopped / ".hydra" / "resumed-1"
    outcome = run("--config-path", str(record), "--config-name", "config", "trainer.max_steps=-1", run_dir(tmp_path / "again"))
    assert outcome.status == 0, outcome.err
    assert_same_run(tmp_path / "again", whole)


# -- a folder that is used ----------------------------------------------------------------------------------------------------


def test_files_of_an_earlier_run_are_set_aside_together(whole: Path, stopped: Path) -> None:
    (stopped / "notes.txt").write_text("of the user")
    earlier = {name: content for name, content in files(stopped).items() if name not in ("notes.txt", ".run.json")}
    outcome = run(*SHORT, run_dir(stopped))
    assert outcome.status == 0, outcome.err
    assert outcome.lines[0] == f"note: {stopped} had the files of an earlier run, which are in {stopped / 'earlier-1'} now"
    assert_same_run(stopped, whole)
    assert files(stopped / "earlier-1") == earlier
    assert (stopped / "notes.txt").exists()
    assert resumed(stopped / "earlier-1", "trainer.max_steps=-1").status == 0  # it is a run like any other
    assert_same_run(stopped / "earlier-1", whole)


def test_what_is_refused_changes_no_file_of_an_earlier_run(part: Path) -> None:
    before = files(part)
    for words in (["batch.size=0"], ["scheduler=x"], ["data.root=1"], ["optimizer.lr=nan"]):
        assert run(*words, run_dir(part)).status == 2
    assert files(part) == before


def test_a_folder_is_for_one_run_at_a_time(stopped: Path) -> None:
    before = files(stopped)
    with held(stopped, "hydra.run.dir"):
        who, host, *_ = (stopped / ".lock").read_text().split()
        fresh, again = refusal(run(*SHORT, run_dir(stopped))), refusal(resumed(stopped))
    assert fresh.startswith(f"hydra.run.dir={stopped}: a run is carried out there: process {who} on {host}, since ")
    assert again.startswith(f"resume={stopped}: the run is still carried out: process {who} on {host}, since ")
    assert files(stopped) == before
    (stopped / ".lock").write_text("1 elsewhere long ago\n")  # left behind by a kill
    assert resumed(stopped, "trainer.max_steps=9").status == 0
    assert not (stopped / ".lock").exists()


def test_a_resume_that_is_interrupted_before_its_first_update_changes_no_file(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupts(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("noisescale.app.train._fit_and_report", interrupts)
    before = files(part)
    assert resumed(part, "trainer.max_steps=9").status == 143
    assert files(part) == before

"""resume=<run dir>: the run goes on in its own folder, as it was, or one line says why it does not."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf

from noisescale.app import notebook
from noisescale.app.sweeps import CHANGED
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.studies.runs import read_run
from tests.helpers.front_door import results_of, run, run_dir
from tests.helpers.resuming import SHORT, STEPS, assert_same_run, files, refusal, resumed
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


# -- the same run -------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one(whole: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stopped.parent)
    before = files(stopped / ".hydra")
    assert resumed(Path(stopped.name), "trainer.max_steps=-1", "threads=1").status == 0
    assert_same_run(stopped, whole)
    assert not [*stopped.parent.glob("outputs*")]
    assert results_of(stopped)["overrides"] == [*SHORT, "trainer.max_steps=-1"]
    assert results_of(stopped)["choices"]["batch"] == "small"

    record = stopped / ".hydra" / "resumed-1"
    assert {name: content for name, content in files(stopped / ".hydra").items() if "resumed" not in name} == before
    assert list(OmegaConf.load(record / "overrides.yaml")) == ["trainer.max_steps=-1"]
    assert results_of(record)["status"] == "stopped"  # what the first part had left is not taken for the result

    complete = files(stopped)
    outcome = resumed(stopped)
    assert (outcome.status, outcome.err) == (0, "")
    accuracy = f"{results_of(stopped)['test/acc']:.4f}"
    assert outcome.out == f"{stopped.name} is complete: 18 updates, test accuracy {accuracy}, the plan's end; more epochs would go on\n"
    assert files(stopped) == complete


@pytest.mark.slow
def test_a_limit_that_a_resume_raised_stays_raised(whole: Path, stopped: Path) -> None:
    """The next resume goes by the last configuration of the run, not by its first."""
    assert resumed(stopped, "trainer.max_steps=13").status == 0
    line = refusal(resumed(stopped))
    assert line == f"resume={stopped}: is at update 13, and trainer.max_steps=13 allows no more; raise trainer.max_steps to go on"
    assert results_of(stopped)["status"] == "stopped"
    assert not (stopped / ".hydra" / "resumed-2").exists()
    assert resumed(stopped, "trainer.max_steps=-1").status == 0
    assert_same_run(stopped, whole)


@pytest.mark.slow
def test_options_stay_what_they_were_although_conf_has_changed(whole: Path, stopped: Path) -> None:
    """A key that conf/ has lost, or got since, changes nothing."""
    path = stopped / ".hydra" / "config.yaml"
    cfg: Any = OmegaConf.load(path)
    assert (cfg.optimizer.lr, cfg.scheduler.lr) == (0.05, 0.05)
    del cfg["weights_from"], cfg["resume"]
    cfg["was_once_a_key"] = 3
    OmegaConf.save(cfg, path)
    assert resumed(stopped, "trainer.max_steps=-1").status == 0
    assert_same_run(stopped, whole)
    cfg = OmegaConf.load(stopped / ".hydra" / "resumed-1" / "config.yaml")
    assert cfg.was_once_a_key == 3


@pytest.mark.slow
def test_another_logger_and_another_device_option_are_harmless(whole: Path, stopped: Path) -> None:
    outcome = resumed(stopped, "trainer.max_steps=-1", "logger=csv", "trainer=cpu", "data.num_workers=0", "~callbacks.progress_bar")
    assert outcome.status == 0, outcome.err
    assert_same_run(stopped, whole)
    assert len(read_rows(next(stopped.glob("csv/*/metrics.csv")))) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*dirpath has changed.*")  # which a process of its own ignores
def test_from_a_notebook(whole: Path, stopped: Path) -> None:
    found = notebook.run(f"resume={stopped}", "trainer.max_steps=-1")
    assert found.folder == stopped
    assert_same_run(stopped, whole)
    with pytest.raises(ConfigError, match="is complete: 18 updates"):
        notebook.run(resume=stopped)


@pytest.mark.slow
def test_a_path_that_is_not_where_the_run_is_resumed_is_named(part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "sets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there")
    assert run(*SHORT, STEPS, "logger=csv", "logger.csv.save_dir=sets", run_dir(tmp_path / "run")).status == 0
    monkeypatch.chdir(tmp_path)
    outcome = resumed(tmp_path / "run", "trainer.max_steps=9")
    assert outcome.status == 0
    assert outcome.lines[0] == f"note: logger.csv.save_dir=sets is in {tmp_path}/there, where the run was started, and not in {tmp_path}"


# -- what is left of a run ----------------------------------------------------------------------------------------------------


def killed_in_the_test(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    with monkeypatch.context() as patched:

        def killed(*_: object) -> None:
            raise RuntimeError("killed")

        patched.setattr("noisescale.app.outcome._test", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(*words)


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object) -> None:
        raise AssertionError("an update was trained")

    monkeypatch.setattr("noisescale.callbacks.BatchSizeScheduler.on_train_batch_start", trained)


def test_a_run_that_was_killed_in_its_test_is_tested(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in_the_test(monkeypatch, *SHORT, run_dir(tmp_path))
    assert not (tmp_path / "results.json").exists()
    no_training(monkeypatch)
    outcome = resumed(tmp_path)
    assert outcome.status == 0, outcome.err
    assert_same_run(tmp_path, whole)
    assert resumed(tmp_path).out.endswith("the plan's end; more epochs would go on\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("averaging=ema", "averaging.decay=0.8", "epochs=1"),
        ("early_stopping=val_loss", "early_stopping.min_delta=100", "early_stopping.patience=1"),
        ("trainer.max_steps=4",),
    ],
    ids=str,
)
def test_so_is_one_with_averaged_weights_or_that_stopped_early(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*SHORT, *words, run_dir(tmp_path / "whole")).status == 0
    killed_in_the_test(monkeypatch, *SHORT, *words, run_dir(tmp_path / "killed"))
    with monkeypatch.context() as patched:
        no_training(patched)
        outcome = resumed(tmp_path / "killed")
        assert outcome.status == 0, outcome.err
    if "trainer.max_steps=4" not in words:
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
    for key in ("test/acc", "test/loss", "updates", "status", "reason"):
        assert results_of(tmp_path / "killed")[key] == results_of(tmp_path / "whole")[key]


@pytest.mark.slow
def test_a_limit_below_the_place_where_a_run_was_killed_is_not_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in_the_test(monkeypatch, *SHORT, run_dir(tmp_path))
    before = files(tmp_path)
    line = refusal(resumed(tmp_path, "trainer.max_steps=4"))
    assert line == f"resume={tmp_path}: is at update 18, and trainer.max_steps=4 allows no more; raise trainer.max_steps to go on"
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_run_that_stopped_early_goes_on_with_more_patience(tmp_path: Path) -> None:
    stops = ("early_stopping=val_loss", "early_stopping.min_delta=100", "early_stopping.patience=1", "scheduler=constant", "epochs=9")
    assert run(*SHORT, *stops, run_dir(tmp_path)).status == 0
    assert results_of(tmp_path)["updates"] == 12
    assert resumed(tmp_path).out.endswith("; more early_stopping.patience would go on\n")
    assert resumed(tmp_path, "early_stopping.patience=2").status == 0
    assert results_of(tmp_path)["updates"] == 18


# -- what is known of a run that was resumed ----------------------------------------------------------------------------------


def test_a_run_stays_known_by_its_words_unless_others_make_it_another_run(stopped: Path) -> None:
    """A sweep would otherwise take it for a run that had those words from its start."""
    began = read_run(stopped)
    assert began is not None
    assert resumed(stopped, "threads=1", "trainer.max_steps=9").status == 0
    moved = read_run(stopped)
    assert moved is not None
    assert moved.overrides == (*(began.overrides or ()), CHANGED)


def test_a_complete_run_that_is_resumed_keeps_every_file(whole: Path) -> None:
    before = files(whole)
    assert resumed(whole, "epochs=1").status == 0
    assert files(whole) == before


def test_a_run_that_failed_in_its_test_is_tested(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "test", full_disk)
        assert run(*SHORT, run_dir(tmp_path)).status == 4
    assert results_of(tmp_path)["status"] == "failed"
    assert resumed(tmp_path).status == 0
    assert_same_run(tmp_path, whole)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_key_that_is_newer_than_the_run_has_its_default(stopped: Path, whole: Path) -> None:
    config = stopped / ".hydra" / "config.yaml"
    kept = [line for line in config.read_text().splitlines() if not line.startswith(("rank_timeout", "plan_csv_rows"))]
    config.write_text("\n".join(kept) + "\n")
    assert resumed(stopped, "trainer.max_steps=-1").status == 0
    assert_same_run(stopped, whole)


@pytest.mark.filterwarnings("ignore:.*the best checkpoint before")
def test_checkpoints_may_lie_elsewhere(tmp_path: Path) -> None:
    words = [*SHORT, f"callbacks.last.dirpath={tmp_path}/elsewhere", "callbacks.last.filename=latest"]
    assert run(*words, run_dir(tmp_path / "whole")).status == 0
    shutil.rmtree(tmp_path / "elsewhere")
    assert run(*words, STEPS, run_dir(tmp_path / "parts")).status == 0
    assert (found := read_run(tmp_path / "parts")) is not None
    assert found.checkpoint == tmp_path / "elsewhere" / "latest.ckpt"
    assert resumed(tmp_path / "parts", "trainer.max_steps=-1").status == 0
    assert not (tmp_path / "parts" / "earlier-1").exists()
    assert read_rows(tmp_path / "parts" / "steps.csv") == read_rows(tmp_path / "whole" / "steps.csv")


def test_words_with_interpolations_are_recorded_as_they_were_typed(tmp_path: Path, whole: Path) -> None:
    words = [*SHORT, "scheduler.T_max=${epochs}", f"hydra.run.dir='{tmp_path}/${{now:%f}}'"]
    assert run(*words, STEPS).status == 0
    (folder,) = tmp_path.iterdir()
    assert resumed(folder, "trainer.max_steps=-1").status == 0
    assert read_rows(folder / "steps.csv") == read_rows(whole / "steps.csv")

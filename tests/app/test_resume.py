"""resume=<run dir>: the run goes on in its own folder, as it was, or one line says why it does not."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn

from noisescale.app import notebook
from noisescale.app.changes import cuts_differ, seen_by_micro_batches
from noisescale.app.resume import resume_command
from noisescale.app.run_folder import held
from noisescale.app.sweeps import CHANGED
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.models import GhostBatchNorm2d
from noisescale.plans import Fixed, Plan
from noisescale.schedules import Constant
from noisescale.studies.runs import read_run
from tests.helpers.front_door import Outcome, checkpoint_of, plan, results_of, run, run_dir
from tests.helpers.resuming import SHORT, assert_same_run
from tests.helpers.trainings import ignored

STEPS = "trainer.max_steps=8"
"""Two updates of the second epoch."""

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def resumed(folder: Path, *words: str) -> Outcome:
    return run(f"resume={folder}", *words)


def refusal(outcome: Outcome) -> str:
    assert outcome.status == 2, (outcome.out, outcome.err)
    assert len(outcome.lines) == 1, outcome.err
    return outcome.lines[0].removeprefix("error: ")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    assert run(*SHORT, run_dir(folder)).status == 0
    return folder


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "part"
    assert run(*SHORT, STEPS, run_dir(folder)).status == 0
    return folder


@pytest.fixture
def stopped(part: Path, tmp_path: Path) -> Path:
    """A run that was stopped after 8 of 18 updates, in a folder that has been moved."""
    return Path(shutil.copytree(part, tmp_path / "a run=1, moved"))


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


# -- another run --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["batch.size=64"], "batch.size=64: the run has batch.size=32; "),
        pytest.param(["batch=full"], "batch=full: the run has batch=small; ", marks=pytest.mark.slow),
        (["scheduler=step"], "scheduler=step: the run has scheduler=cosine; "),
        pytest.param(["scheduler.T_max=9"], "scheduler.T_max=9: the run has scheduler.T_max=null; ", marks=pytest.mark.slow),
        pytest.param(["warmup=linear"], "warmup=linear: the run has warmup=none; ", marks=pytest.mark.slow),
        pytest.param(["optimizer.lr=0.1"], "optimizer.lr=0.1: the run has optimizer.lr=0.05; ", marks=pytest.mark.slow),
        (["data.subset_size=null"], "data.subset_size=null: the run has data.subset_size=200; "),
        pytest.param(["model=cnn"], "model=cnn: the run has model=mlp; ", marks=pytest.mark.slow),
        pytest.param(["model.widths=[9]"], "model.widths=[9]: the run has model.widths=[256, 128]; ", marks=pytest.mark.slow),
        pytest.param(["seed=1"], "seed=1: the run has seed=0; ", marks=pytest.mark.slow),
        pytest.param(
            ["trainer.gradient_clip_val=1"],
            "trainer.gradient_clip_val=1: the run has trainer.gradient_clip_val=null; ",
            marks=pytest.mark.slow,
        ),
        (["callbacks.last.filename=x"], "callbacks.last.filename=x: the run has callbacks.last.filename=last; "),
        (["+callbacks.mine._target_=os.getcwd"], "callbacks.mine._target_=os.getcwd: the run does not have this key; "),
        (["epochs=x"], "epochs=x: must be a whole number of epochs"),
        pytest.param(["batchsize=3"], "batchsize: unknown key", marks=pytest.mark.slow),
        pytest.param(["scheduler=cosin"], "scheduler=cosin: no such option, did you mean cosine?", marks=pytest.mark.slow),
        (["-m", "seed=0,1"], "resume={run}: goes on with one run, not with a sweep (-m); leave out -m"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: a resumed run has its own folder and its last checkpoint; leave it out"),
        (["ckpt_path=x"], "ckpt_path=x: a resumed run has its own folder and its last checkpoint; leave it out"),
    ],
    ids=str,
)
def test_what_would_make_it_another_run_is_refused_with_both_values(words: list[str], line: str, part: Path) -> None:
    before = files(part)
    assert refusal(resumed(part, *words)).startswith(line.format(run=part))
    assert files(part) == before


@pytest.mark.slow
def test_the_same_value_again_is_no_change(stopped: Path) -> None:
    same = ("batch.size=32", "scheduler=cosine", "optimizer.lr=5e-2", "data.subset_size=200", "trainer.max_steps=9")
    outcome = resumed(stopped, *same)
    assert outcome.status == 0, outcome.err
    assert results_of(stopped)["updates"] == 9


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["epochs=6"], "note: epochs=6, the checkpoint was trained with epochs=3: scheduler=cosine has this length: "),
        pytest.param(["max_micro_batch_size=16"], "", marks=pytest.mark.slow),
    ],
)
def test_what_moves_is_said_in_a_line(words: list[str], line: str, stopped: Path) -> None:
    outcome = resumed(stopped, "trainer.max_steps=9", *words)
    assert outcome.status == 0, outcome.err
    notes = [each for each in outcome.lines if "the checkpoint was trained with" in each]
    assert [each.startswith(line) for each in notes] == ([True] if line else [])
    if line:
        assert notes[0].endswith("its factor at epoch 1 is 0.933 instead of 0.75")  # (1 + cos(pi/6))/2 and (1 + cos(pi/3))/2


@pytest.mark.slow
def test_more_epochs_are_silent_where_the_schedule_has_its_own_length(stopped: Path, tmp_path: Path) -> None:
    fixed = (*SHORT, "scheduler.T_max=3", run_dir(tmp_path / "fixed"))
    assert run(*fixed, "epochs=1").status == 0
    outcome = resumed(tmp_path / "fixed", "epochs=2")
    assert outcome.status == 0, outcome.err
    assert "the checkpoint was trained with" not in outcome.err
    assert results_of(tmp_path / "fixed")["updates"] == 12


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([nn.Linear(2, 2), nn.LayerNorm(2), nn.Dropout(0.0), GhostBatchNorm2d(2, ghost_batch_size=4)], ""),
        ([nn.BatchNorm1d(2)], "batch norm sees other examples together from here on"),
        ([nn.Dropout(0.1)], "dropout draws other masks from here on"),
        ([nn.BatchNorm1d(2), nn.Dropout2d(0.1)], "batch norm sees other examples together and dropout draws other masks from here on"),
    ],
)
def test_what_micro_batches_change_is_said_of_the_layers_that_a_module_has(layers: list[nn.Module], said: str) -> None:
    assert seen_by_micro_batches(nn.Sequential(*layers)) == said


@pytest.mark.parametrize(
    ("limit", "other", "differ"), [(None, 32, False), (None, 16, True), (40, 32, False), (17, 16, False), (9, 12, True)]
)
def test_a_memory_limit_that_divides_no_update_otherwise_is_no_change(limit: int | None, other: int, differ: bool) -> None:
    assert cuts_differ(Plan(Constant(), Fixed(size=32), 64, 1, max_micro_batch_size=limit), other) is differ


@pytest.mark.slow
def test_batch_norm_is_said_to_see_other_examples(tmp_path: Path) -> None:
    words = ("threads=1", "logger=csv-only", "data.subset_size=200", "epochs=1", "check_cuts=false")
    model = ("model=cnn", "model.widths=[4]", "model.norm=batch")
    assert run(*words, *model, "trainer.max_steps=1", run_dir(tmp_path)).status == 0
    outcome = resumed(tmp_path, "trainer.max_steps=2", "max_micro_batch_size=16")
    assert outcome.status == 0, outcome.err
    note = "note: max_micro_batch_size=16, the checkpoint was trained with max_micro_batch_size=null: batch norm sees other examples "
    assert f"{note}together from here on" in outcome.lines


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
def test_a_run_that_stopped_early_goes_on_with_more_patience(tmp_path: Path) -> None:
    stops = ("early_stopping=val_loss", "early_stopping.min_delta=100", "early_stopping.patience=1", "scheduler=constant", "epochs=9")
    assert run(*SHORT, *stops, run_dir(tmp_path)).status == 0
    assert results_of(tmp_path)["updates"] == 12
    assert resumed(tmp_path).out.endswith("; more early_stopping.patience would go on\n")
    assert resumed(tmp_path, "early_stopping.patience=2").status == 0
    assert results_of(tmp_path)["updates"] == 18


# -- which run ----------------------------------------------------------------------------------------------------------------


def test_a_folder_of_runs_stands_for_its_newest_with_a_checkpoint(part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for name in ("old", "new", "none"):
        shutil.copytree(part, runs / name)
        config = runs / name / ".hydra" / "config.yaml"
        config.write_bytes(config.read_bytes())  # begun in this order
    for name in ("last", "previous"):
        (runs / "none" / "checkpoints" / f"{name}.ckpt").unlink(missing_ok=True)
    outcome = resumed(Path("runs"), "trainer.max_steps=9")
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[0] == "resume: runs/new"
    assert (results_of(runs / "new")["updates"], results_of(runs / "old")["updates"]) == (9, 8)
    outcome = resumed(Path("runs/new/checkpoints/last.ckpt"), "trainer.max_steps=10")
    assert results_of(runs / "new")["updates"] == 10
    assert resume_command(runs / "a b") == "python train.py 'resume=runs/a b'"


def sweep(folder: Path, part: Path) -> None:
    for number, status in enumerate(("completed", "stopped")):
        (folder / str(number) / ".hydra").mkdir(parents=True)
        (folder / str(number) / ".hydra" / "config.yaml").write_text("epochs: 1\n")
        (folder / str(number) / "results.json").write_text(f'{{"status": "{status}"}}')
    (folder / "multirun.yaml").write_text("")


def of_plan(folder: Path, part: Path) -> None:
    shutil.copytree(part / ".hydra", folder / ".hydra")
    hydra = folder / ".hydra" / "hydra.yaml"
    hydra.write_text(hydra.read_text().replace("name: train", "name: plan"))


def without_checkpoint(folder: Path, part: Path) -> None:
    shutil.copytree(part / ".hydra", folder / ".hydra")


def damaged(folder: Path, part: Path) -> None:
    without_checkpoint(folder, part)
    (folder / ".hydra" / "config.yaml").write_text("a: [")


WRONG: list[tuple[str, Callable[[Path, Path], object] | None, str]] = [
    ("nothing here", None, "resume={path}: no such folder; give the folder of a run, such as outputs/train/..."),
    (
        "empty = folder",
        lambda folder, _: folder.mkdir(),
        "resume={path}: is not the folder of a run: it has no .hydra/config.yaml; give one that has",
    ),
    ("a file", lambda file, _: file.touch(), "resume={path}: is a file; give the folder of a run, or its last checkpoint"),
    (
        "x.ckpt",
        lambda file, _: file.touch(),
        "resume={path}: is a checkpoint outside of the folder of a run; use ckpt_path, with the options of its run",
    ),
    ("sweep", sweep, "resume={path}: is the folder of a sweep; resume one of its runs: sweep/1"),
    ("plan", of_plan, "resume={path}: is a folder of plan.py, which trains nothing; give the folder of a training"),
    (
        "a b",
        without_checkpoint,
        "resume={path}: has no checkpoint to resume from (a b/checkpoints/last.ckpt); train it anew: "
        "python train.py --config-path 'a b/.hydra' --config-name config",
    ),
    ("damaged", damaged, "config={path}/.hydra: the recorded configuration cannot be read ("),
]


@pytest.mark.parametrize(("name", "make", "line"), WRONG, ids=[name for name, _, _ in WRONG])
def test_what_cannot_be_resumed_is_said_in_one_line(
    name: str, make: Callable[[Path, Path], object] | None, line: str, part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if make is not None:
        make(tmp_path / name, part)
    for quoted in (str(tmp_path / name), f"'{tmp_path / name}'"):
        said = refusal(run(f"resume={quoted}"))
        assert said.startswith(line.format(path=tmp_path / name))


@pytest.mark.slow
def test_the_plan_of_a_run_is_not_a_resume(part: Path) -> None:
    line = refusal(plan(f"resume={part}"))
    assert re.fullmatch(r"resume=\S+: plan.py trains nothing; for its plan: python plan.py --config-path \S+/part/.hydra", line)
    assert "is the folder of a training" in refusal(plan(run_dir(part)))


# -- a run that is repeated from its record -----------------------------------------------------------------------------------


def test_a_run_with_an_open_rule_is_repeated_from_its_own_record(tmp_path: Path) -> None:
    words = (*SHORT, "batch=dual", "batch.size=8", "optimizer=adam", "callbacks=light")
    assert run(*words, run_dir(tmp_path / "a b")).status == 0
    again = ("--config-path", str(tmp_path / "a b" / ".hydra"), "--config-name", "config")
    outcome = run(*again, run_dir(tmp_path / "again"))
    assert outcome.status == 0, outcome.err
    assert "note: batch.rule=adaptive follows optimizer=adam" in outcome.lines
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


# -- ckpt_path, the low-level way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["batch.size=64"], "batch.size=64: the checkpoint was trained with batch.size=32; "),
        pytest.param(["batch=full"], "batch=full: the checkpoint was trained with batch=small; ", marks=pytest.mark.slow),
        (["scheduler=step"], "scheduler=step: the checkpoint was trained with scheduler=cosine; "),
        pytest.param(
            ["scheduler.T_max=9"], "scheduler.T_max=9: the checkpoint was trained with scheduler.T_max=null; ", marks=pytest.mark.slow
        ),
        pytest.param(["warmup=linear"], "warmup=linear: the checkpoint was trained with warmup=none; ", marks=pytest.mark.slow),
        pytest.param(
            ["trainer.gradient_clip_val=1"],
            "trainer.gradient_clip_val=1: the checkpoint was trained with trainer.gradient_clip_val=null; ",
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_plan_is_refused(words: list[str], line: str, part: Path, tmp_path: Path) -> None:
    said = refusal(run(*SHORT, f"ckpt_path={part}/checkpoints/last.ckpt", run_dir(tmp_path), *words))
    assert said == f"{line}resume with the same, or start a new training from its weights with weights_from=..."


def test_a_checkpoint_of_a_version_that_saved_no_plan_is_taken_with_a_line(whole: Path, stopped: Path) -> None:
    path = stopped / "checkpoints" / "last.ckpt"
    saved = checkpoint_of(stopped)
    del saved["callbacks"]["SameRun"]["plan"]
    torch.save(saved, path)
    outcome = resumed(stopped, "trainer.max_steps=-1")
    assert outcome.status == 0, outcome.err
    known = "batch, scheduler, warmup, trainer, epochs, max_micro_batch_size"
    assert f"note: the checkpoint is of a version that did not save {known}: they are taken as they are given here" in outcome.lines
    assert_same_run(stopped, whole)


def test_a_new_training_starts_from_the_weights_of_a_checkpoint(part: Path, tmp_path: Path) -> None:
    """With another batch and another schedule, and from its own first update."""
    weights = f"weights_from={part}/checkpoints/last.ckpt"
    words = (*SHORT, "batch.size=45", "scheduler=step", "optimizer.lr=1e-30", weights)
    assert run(*words, "epochs=1", run_dir(tmp_path / "a")).status == 0
    mine, other = checkpoint_of(tmp_path / "a")["state_dict"], checkpoint_of(part)["state_dict"]
    assert all(torch.equal(mine[name], value) for name, value in other.items())
    assert results_of(tmp_path / "a")["updates"] == 4
    assert resumed(tmp_path / "a", "epochs=2").status == 0  # which does not load them again
    line = refusal(run(*words, "model.widths=[9]", run_dir(tmp_path / "b")))
    assert line.startswith(f"{weights}: cannot be loaded (Error(s) in loading state_dict for Classifier: ")


@pytest.mark.slow
def test_the_printed_command_is_the_one_that_resumes(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stopped.parent)
    python, script, *words = shlex.split(resume_command(stopped))
    assert (python, script) == ("python", "train.py")
    assert run(*words, "trainer.max_steps=9").status == 0
    assert results_of(stopped)["updates"] == 9


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

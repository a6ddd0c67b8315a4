"""What a resumed run may change, what is said of it, and what is refused because it would be another run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from noisescale.app.changes import cuts_differ, seen_by_micro_batches
from noisescale.app.resume import resume_command
from noisescale.models import GhostBatchNorm2d
from noisescale.plans import Fixed, Plan
from noisescale.schedules import Constant
from tests.helpers.front_door import checkpoint_of, results_of, run, run_dir
from tests.helpers.resuming import SHORT, assert_same_run, files, refusal, resumed
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.cases(4)
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

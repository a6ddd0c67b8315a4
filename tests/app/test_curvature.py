"""curvature.py: a checkpoint is measured with the configuration of its own run; the line to another one is drawn; bad input is one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import curvature as curvature_script
from noisescale.data import DigitsData
from noisescale.files import read_rows
from noisescale.studies.curvature_table import OBJECTIONS
from tests.helpers.front_door import QUICK, Outcome, checkpoint_of, outcome_of, plan, run
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

CHEAP = ("examples=60", "batches=3", "subspace=5", "iterations=2")
IN_RUN = ("callbacks=[full,sharpness]", *(f"callbacks.sharpness.{word}" for word in CHEAP))
SMALL = ("model.widths=[8]", "logger=csv-only", *QUICK)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, which has measured its curvature, and a plan."""
    folder = tmp_path_factory.mktemp("runs")
    outcome = run(*SMALL, *IN_RUN, f"hydra.run.dir={folder}/0")
    assert outcome.status == 0, outcome.err
    assert plan(f"hydra.run.dir={folder}/plan").status == 0
    return folder


def curvature(*words: str) -> Outcome:
    return outcome_of(curvature_script, *words, "threads=1")


def measured(runs: Path, tmp_path: Path, *words: str) -> tuple[Outcome, dict[str, Any]]:
    outcome = curvature(f"ckpt={runs}/0", *(f"curvature.{word}" for word in CHEAP), *words, f"hydra.run.dir={tmp_path}/found")
    assert outcome.status == 0, outcome.err
    return outcome, json.loads((tmp_path / "found" / "curvature.json").read_text())


@pytest.mark.cases(1)
def test_it_measures_what_the_run_has_measured(runs: Path, tmp_path: Path) -> None:
    """The numbers are those of the callback at the end of the run, to the last digit: the module and the data are rebuilt exactly."""
    outcome, found = measured(runs, tmp_path)
    (row,) = read_rows(runs / "0" / "curvature.csv")
    names = [name for name in row if name not in ("update", "epoch", "seconds")]
    assert {name: float(row[name]) for name in names} == {name: float(found[name]) for name in names}
    assert (found["update"], found["examples"], found["num_examples"], found["complete"]) == (6, 60, 180, True)
    for words in ("lambda_max", "batch sharpness, B = 32", "phi, epsilon = 0.001", "in 5 random directions", "eval mode", *OBJECTIONS):
        assert words in outcome.out
    assert outcome.err == ""


@pytest.mark.slow
def test_a_file_of_the_run_other_data_keys_and_the_mode_can_be_given(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "0", tmp_path / "0")
    shutil.copy(tmp_path / "0" / "checkpoints" / "last.ckpt", tmp_path / "0" / "checkpoints" / "kept.ckpt")
    words = ("curvature.mode=train", "curvature.radii=[]", "curvature.batches=0", "data.eval_batch_size=50", "curvature.examples=null")
    outcome = curvature(f"ckpt={tmp_path}/0/checkpoints/kept.ckpt", *words, f"hydra.run.dir={tmp_path}/found")
    assert outcome.status == 0, outcome.err
    found = json.loads((tmp_path / "found" / "curvature.json").read_text())
    assert (found["examples"], found["mode"]) == (180, "train")
    assert not [name for name in found if name.startswith(("keskar", "batch"))]
    assert "kept.ckpt: update 6" in outcome.out
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == sorted(path.name for path in (runs / "0").iterdir())


@pytest.mark.slow
def test_the_line_to_another_checkpoint(runs: Path, tmp_path: Path) -> None:
    assert run(*SMALL, "seed=1", "data.seed=0", f"hydra.run.dir={tmp_path}/other").status == 0
    ends = {}
    for seed, folder in enumerate((runs / "0", tmp_path / "other")):
        words = ("curvature.radii=[]", "curvature.batches=0", "curvature.tolerance=0.5", "curvature.examples=60")
        assert curvature(f"ckpt={folder}", *words, f"hydra.run.dir={tmp_path}/{seed}").status == 0
        ends[float(seed)] = json.loads((tmp_path / str(seed) / "curvature.json").read_text())["loss"]
    line = (
        f"ckpt={runs}/0",
        f"to={tmp_path}/other/checkpoints/last.ckpt",
        "curvature.examples=60",
        "curvature.points=5",
        "curvature.span=[-1,1.5]",
    )
    outcome = curvature(*line, f"hydra.run.dir={tmp_path}/line")
    assert outcome.status == 0, outcome.err
    points = {float(row["t"]): float(row["loss"]) for row in read_rows(tmp_path / "line" / "line.csv")}
    assert list(points) == [-1.0, -0.375, 0.0, 0.25, 0.875, 1.0, 1.5]
    assert points[0.0] == ends[0.0]
    assert points[1.0] == ends[1.0]  # data.seed is 0 in both
    assert (tmp_path / "line" / "line.png").read_bytes().startswith(b"\x89PNG")
    assert f"a {ends[0.0]:.4g}, b {ends[1.0]:.4g}" in outcome.out


@pytest.mark.slow
def test_a_user_module_is_measured_with_its_own_data(tmp_path: Path) -> None:
    own = ("module._target_=tests.helpers.own.Module", "data._target_=tests.helpers.own.Data", "epochs=1", "batch.size=8", "threads=1")
    outcome = run(*own, "callbacks.best=null", "logger=csv-only", f"hydra.run.dir={tmp_path}/run")
    assert outcome.status == 0, outcome.err
    outcome = curvature(f"ckpt={tmp_path}/run", "curvature.tolerance=1e-4", f"hydra.run.dir={tmp_path}/found")
    assert outcome.status == 0, outcome.err
    found = json.loads((tmp_path / "found" / "curvature.json").read_text())
    assert all(math.isfinite(found[name]) for name in ("loss", "lambda_max", "batch_sharpness", "keskar_phi_0.001"))


@pytest.mark.slow
def test_results_are_written_as_they_are_found(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops it keeps what there is."""

    def stopped(*_: Any, **__: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("noisescale.measures.sharpness.keskar_phi", stopped)
    outcome = curvature(f"ckpt={runs}/0", *(f"curvature.{word}" for word in CHEAP), f"hydra.run.dir={tmp_path}/found")
    assert outcome.status not in (0, None)
    found = json.loads((tmp_path / "found" / "curvature.json").read_text())
    assert not found["complete"]
    assert found["lambda_max"] > 0
    assert "keskar_phi_0.001" not in found


@pytest.mark.slow
def test_a_run_is_measured_from_its_resume_on(tmp_path: Path) -> None:
    """What only observes may be added; and a new run in the folder sets the file aside with the others."""
    words = (*SMALL, f"hydra.run.dir={tmp_path}/run")
    assert run(*words).status == 0
    outcome = run(f"resume={tmp_path}/run", "epochs=2", *IN_RUN, "callbacks.sharpness.every_n_epochs=1")
    assert outcome.status == 0, outcome.err
    assert [row["update"] for row in read_rows(tmp_path / "run" / "curvature.csv")] == ["12"]
    assert run(*words).status == 0
    assert not (tmp_path / "run" / "curvature.csv").exists()
    assert (tmp_path / "run" / "earlier-1" / "curvature.csv").exists()


# -- bad input -----------------------------------------------------------------------------------------------------------------


def slow(*values: Any) -> Any:
    """A case of `make test-slow`; another one of its kind is in the default suite."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "ckpt=null: says which checkpoint to measure; give ckpt=outputs/train/<run>, or a .ckpt file in it"),
        (["ckpt={runs}/none"], "ckpt={runs}/none: no such file or folder; give ckpt=outputs/train/<run>, or a .ckpt file in it"),
        (["ckpt={runs}"], "ckpt={runs}: is not the folder of a run, which has .hydra/config.yaml; give one that is"),
        (["ckpt={runs}/plan"], "ckpt={runs}/plan: is a folder of plan.py, which trains nothing; give the folder of a training"),
        (["ckpt={tmp}/file"], "ckpt={tmp}/file: is not in the folder of a run, which has .hydra/config.yaml; give one that is"),
        (["ckpt={runs}/0/steps.csv"], "ckpt={runs}/0/steps.csv: is not a checkpoint, or a damaged one; give a whole checkpoint"),
        (["ckpt={runs}/0", "to={runs}/9"], "to={runs}/9: no such file or folder; give to=outputs/train/<run>, or a .ckpt file in it"),
        (["ckpt={runs}/0", "-m"], "ckpt={runs}/0: is measured in one run, not in a sweep (-m); leave out -m"),
        (
            ["ckpt={runs}/0", "optimizer.lr=1"],
            "optimizer.lr=1: is as the run of the checkpoint has recorded it; leave it out; curvature.KEY says what is measured",
        ),
        (
            ["ckpt={runs}/0", "data=mnist"],
            "data=mnist: is as the run of the checkpoint has recorded it; leave it out; curvature.KEY says what is measured",
        ),
        (["ckpt={runs}/0", "curvature.examples=0"], "curvature.examples=0: must be a whole number of examples, at least 1; null for all"),
        slow(["ckpt={runs}/0", "curvature.mode=both"], "curvature.mode=both: must be one of eval, train"),
        slow(["ckpt={runs}/0", "curvature.points=1"], "curvature.points=1: must be a whole number, at least 2"),
        slow(
            ["ckpt={runs}/0", "curvature.span=2"],
            "curvature.span=2: must be two numbers, from and to; for example curvature.span=[-0.5,1.5]",
        ),
        slow(["ckpt={runs}/0", "curvature.span=[1,0]"], "curvature.span=[1, 0]: must be increasing; for example curvature.span=[-0.5,1.5]"),
        slow(["ckpt={runs}/0", "curvature.span=[0,nan]"], "curvature.span=nan: must be a finite number in (-inf, inf); given: [0, nan]"),
        (
            ["ckpt={runs}/0", "curvature.epsilon=1"],
            "curvature.epsilon: unknown key; keys of curvature: examples, chunk_size, mode, tolerance, batches, batch_size, radii, "
            "full_space, subspace, iterations, seed, points, span, ckpt, to",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(words: list[str], line: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        pytest.fail("data were read although the input is bad")

    monkeypatch.setattr(DigitsData, "read", read)
    (tmp_path / "file").write_text("no checkpoint")
    names = {"runs": runs, "tmp": tmp_path}
    outcome = curvature(*(word.format(**names) for word in words), f"hydra.run.dir={tmp_path}/found")
    assert (outcome.status, outcome.err, outcome.out) == (2, f"error: {line.format(**names)}\n", "")


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(runs: Path, tmp_path: Path) -> None:
    assert run(*SMALL, "model.widths=[4]", f"hydra.run.dir={tmp_path}/other").status == 0
    outcome = curvature(f"ckpt={runs}/0", f"to={tmp_path}/other", f"hydra.run.dir={tmp_path}/found")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: to={tmp_path}/other/checkpoints/last.ckpt: cannot be loaded (Error(s) in loading state_dict")
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_weights_that_are_not_finite_have_no_curvature(runs: Path, tmp_path: Path) -> None:
    """Undefined is nan, which is null in JSON and - in the table."""
    shutil.copytree(runs / "0", tmp_path / "0")
    checkpoint = checkpoint_of(tmp_path / "0")
    next(iter(checkpoint["state_dict"].values())).fill_(math.nan)
    torch.save(checkpoint, tmp_path / "0" / "checkpoints" / "last.ckpt")
    outcome = curvature(f"ckpt={tmp_path}/0", *(f"curvature.{word}" for word in CHEAP), f"hydra.run.dir={tmp_path}/found")
    assert outcome.status == 0, outcome.err
    found = json.loads((tmp_path / "found" / "curvature.json").read_text())
    assert [found[name] for name in ("loss", "lambda_max", "batch_sharpness", "keskar_phi_0.001")] == [None] * 4

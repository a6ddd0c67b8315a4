"""recommend.py: the front door of a recommendation."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from noisescale.app import recommending
from noisescale.studies.measured import Measured
from noisescale.studies.recommendation import Recommendation
from noisescale.studies.recommendation_study import Recommended
from tests.helpers.front_door import QUICK, branches, plan, recommend, run, run_dir
from tests.helpers.resuming import files
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

FEW = (*QUICK, "epochs=4", "batch.size=8", "recommend.budget=0.5", "data.num_workers=0")


@pytest.mark.slow
def test_it_leaves_a_page_whose_command_can_be_pasted(tmp_path: Path) -> None:
    outcome = recommend(*FEW, run_dir(tmp_path / "a"))
    assert outcome.status == 0, outcome.err
    page, found = (tmp_path / "a" / "recommendation.md").read_text(), json.loads((tmp_path / "a" / "recommendation.json").read_text())
    assert found["command"] in page
    assert found["command"] in outcome.out
    assert f"**B = {found['recommendation']['batch_size']}, lr = " in page
    program, script, *words = shlex.split(found["command"])
    assert (program, script) == ("python", "train.py")
    assert plan(*words, run_dir(tmp_path / "plan")).status == 0
    assert (tmp_path / "a" / "recommendation.png").read_bytes().startswith(b"\x89PNG")
    speeds = (tmp_path / "a" / "speeds.json").read_bytes()
    again = recommend(*FEW, run_dir(tmp_path / "a"))
    assert (again.status, again.out) == (0, outcome.out)
    assert (tmp_path / "a" / "speeds.json").read_bytes() == speeds
    other = recommend(*FEW, "recommend.tolerance=0.1", run_dir(tmp_path / "a"))
    assert other.status == 2
    assert other.lines[-1].startswith("error: recommend.tolerance=0.1: ")


@pytest.mark.parametrize(
    ("rule", "linear", "words"), [("adaptive", True, ["batch.rule=sgd"]), ("adaptive", False, ["batch.rule=adaptive"]), ("sgd", True, [])]
)
def test_the_command_of_a_dual_has_the_rule_that_was_found(
    rule: str, linear: bool, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own rule would be that of the optimizer, and the page would count the updates of another dual."""
    monkeypatch.setattr(recommending, "typed", lambda: ["optimizer=adam", "batch.size=8", "recommend.budget=1"])
    measured = Measured(8, 0.1, 10.0, rule)
    monkeypatch.setattr(Measured, "winner", property(lambda _: ("linear" if linear else "sqrt") if rule == "adaptive" else None))
    found = Recommended(Recommendation(16, 0.2, 1, 128), measured, updates=100, dual_updates=50)
    command = shlex.split(recommending._command(found, own_optimizer=False))
    start = ["python", "train.py", "optimizer=adam", "batch=dual", "batch.size=16", "optimizer.lr=0.2", "batch.max_size=128"]
    assert command == [*start, *words]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ckpt_path=x.ckpt"], "ckpt_path=x.ckpt: recommend.py begins with new weights; leave it out, or give weights_from"),
        (["trainer.max_steps=5"], "trainer.max_steps=5: would end the training that recommend.py studies; leave it out"),
        (
            ["batch.lr_rule=linear", "batch.reference_size=64"],
            "batch.lr_rule=linear: recommend.py finds the learning rate of each batch itself; leave it out",
        ),
        (
            ["batch=plateau"],
            "batch=plateau: is decided during the training, and recommend.py needs a plan that is known before; "
            "choose another one, such as batch=small scheduler=cosine",
        ),
        (["scheduler=none"], "scheduler=none: leaves the learning rate to the module, but recommend.py sets it; choose a schedule"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    outcome = recommend(*FEW, *words, run_dir(tmp_path))
    assert outcome.status == 2
    assert outcome.lines == [f"error: {line}"]


def test_the_folder_of_a_training_and_that_of_a_study_stay_what_they_are(tmp_path: Path) -> None:
    assert run(*QUICK, "trainer.max_steps=1", "logger=csv-only", run_dir(tmp_path / "run")).status == 0
    before = files(tmp_path / "run")
    for study in (recommend, branches):
        outcome = study(*QUICK, run_dir(tmp_path / "run"))
        assert outcome.status == 2
        assert outcome.lines[-1].startswith(
            f"error: hydra.run.dir={tmp_path / 'run'}: is the folder of a training; choose another folder for "
        )
    assert files(tmp_path / "run") == before
    (tmp_path / "study" / ".hydra").mkdir(parents=True)
    for file in (tmp_path / "run" / ".hydra").iterdir():
        (tmp_path / "study" / ".hydra" / file.name).write_text(file.read_text().replace("name: train", "name: recommend"))
    for other in (run, branches):
        outcome = other(*QUICK, run_dir(tmp_path / "study"))
        assert outcome.status == 2
        assert "is the folder of a study by recommend.py; choose another folder for " in outcome.err

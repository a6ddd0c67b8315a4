"""plan.py reads neither torch nor data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.front_door import Outcome, plan, run_dir
from tests.helpers.processes import python
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def planned(folder: Path, *arguments: str) -> Outcome:
    """Run plan.py, which must succeed, with `folder` as its output folder."""
    outcome = plan(*arguments, run_dir(folder))
    assert outcome.status == 0, outcome.err
    return outcome


HEAVY = {"torch", "pytorch_lightning", "lightning", "torchvision", "sklearn", "torchmetrics", "tensorboard"}


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("words", "updates", "places"),
    [
        (["epochs=1", "batch=dual"], ["24 updates instead of 41"], ["outputs/plan/*"]),
        (
            ["-m", "data=mnist,cifar10", "epochs=1", "batch.size=100"],
            ["540 updates", "450 updates"],
            ["outputs/sweep/*/0", "outputs/sweep/*/1"],
        ),
    ],
    ids=["digits", "mnist, cifar10"],
)
def test_neither_torch_nor_data_are_loaded(words: list[str], updates: list[str], places: list[str], tmp_path: Path) -> None:
    """This holds in an empty folder, with Hydra's default folders for the output."""
    found = python("-W", "error", "-X", "importtime", str(REPOSITORY / "plan.py"), *words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in found.stderr.splitlines() if line.startswith("import time:")}
    assert {"hydra", "matplotlib", "noisescale"} <= imported
    assert not imported & HEAVY
    for words_of_total in updates:
        assert words_of_total in found.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    for place in places:
        (folder,) = tmp_path.glob(place)
        assert {path.name for path in folder.iterdir()} == {".hydra", "plan.csv", "plan.png"}
        assert f"{folder.relative_to(tmp_path)}/plan.csv\n{folder.relative_to(tmp_path)}/plan.png" in found.stdout


def test_the_data_need_not_be_there(tmp_path: Path) -> None:
    words = ("data=cifar10", "data.root=/nowhere/at/all", "data.download=false", "epochs=1")
    assert "1 407 updates" in planned(tmp_path, *words).out


def test_imagenet_is_a_number(tmp_path: Path) -> None:
    sizes = ("data.size=1281167", "epochs=90", "batch.size=8192", "batch.last=partial")
    words = (*sizes, "scheduler=multistep", "scheduler.milestones=[30,60,80]")
    assert "14 130 updates" in planned(tmp_path, *words).out
    dual = planned(tmp_path, *words, "batch=dual", "batch.match=ratio", "batch.max_size=65536").out
    assert "5 910 updates instead of 14 130 at B = 8192" in dual


@pytest.mark.slow
def test_imagenet_in_batches_of_256(tmp_path: Path) -> None:
    out = planned(tmp_path, "data.size=1281167", "epochs=90", "batch.size=256", "batch.last=partial").out
    assert "450 450 updates" in out

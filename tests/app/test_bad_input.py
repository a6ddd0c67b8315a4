"""Bad input: one clear line on stderr, exit status 2, before data are touched and before anything is trained."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from PIL import Image

import train
from noisescale.data import DigitsData
from noisescale.errors import ConfigError
from tests.helpers.front_door import Outcome, branches, command, plan, range_test, recommend, run
from tests.helpers.images import write_images
from tests.helpers.processes import python
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

INPUT = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("bad_input.yaml"))))


PROGRAMS = {"train": run, "plan": plan, "branches": branches, "range_test": range_test, "recommend": recommend}


def cases(section: str) -> list[Any]:
    """The cases of a section; those whose first word is of the same key as that of an earlier case are slow, because there are so many."""
    keys: set[str] = set()
    found = []
    for case in INPUT[section]:
        key = case["typed"].partition("=")[0]
        name = " ".join(filter(None, (case.get("program"), case["typed"])))
        found.append(pytest.param(case, id=name, marks=[pytest.mark.slow] if key in keys else []))
        keys.add(key)
    return found


def line_of(case: dict[str, str], **names: object) -> str:
    """The line that answers a case, with all of its {words} and {names} filled in."""
    line = case["line"]
    for name, words in (INPUT["words"] | names).items():
        line = line.replace(f"{{{name}}}", str(words))
    return line


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, and folders of images, some of them damaged: `bad_input.yaml` says what there is."""
    tmp = tmp_path_factory.mktemp("input")
    (tmp / "file").write_text("not a folder, and not a checkpoint")
    (tmp / "empty" / "train" / "a").mkdir(parents=True)
    (tmp / "empty" / "test" / "a").mkdir(parents=True)
    for name in ("images", "cut_train", "cut_test", "sizes"):
        write_images(tmp / name, size=(16, 16), kind="jpg", classes=("a", "b"))
    for image in (tmp / "cut_train" / "train" / "b" / "2.jpg", tmp / "cut_test" / "test" / "a" / "1.jpg"):
        image.write_bytes(image.read_bytes()[:-200])
    Image.new("RGB", (9, 9)).save(tmp / "sizes" / "train" / "b" / "0.jpg")
    return tmp


def assert_refused(outcome: Outcome, run_dir: Path) -> str:
    """The line, without "error: "."""
    assert outcome.status == 2, outcome
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert outcome.out == ""
    left = {path.name for path in run_dir.rglob("*")}
    assert not left & {"results.json", "steps.csv", "epochs.csv", "checkpoints"}, "something was trained"
    return outcome.lines[0].removeprefix("error: ")


def refused(case: dict[str, str], tmp: Path, run_dir: Path) -> str:
    typed = case["typed"]
    words = typed.replace("{tmp}", str(tmp)).replace("{own}", INPUT["words"]["own"]).split(" ")
    if "hydra." not in typed:
        words.append(f"{'hydra.sweep.dir' if '-m' in words else 'hydra.run.dir'}={run_dir}")
    return assert_refused(PROGRAMS[case.get("program", "train")](*words), run_dir)


def never(what: str) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        pytest.fail(f"{what} although the input is bad")

    return fail


@pytest.mark.cases(50)
@pytest.mark.parametrize("case", cases("before_data_are_touched"))
def test_bad_input_is_one_line_before_data_are_touched(
    case: dict[str, str], tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsData, "read", never("data were read"))
    monkeypatch.setattr("noisescale.data.imagefolder.decode_images", never("images were decoded"))
    monkeypatch.setattr(pl.Trainer, "fit", never("training started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cpus = max(2, os.cpu_count() or 1)
    names = {"tmp": tmp, "cwd": Path.cwd(), "cpus": cpus, "processes": max(64, 4 * cpus)}
    assert refused(case, tmp, tmp_path) == line_of(case, **names)
    assert not (tmp / "made").exists(), "what the config names was called"


@pytest.mark.cases(3)
@pytest.mark.parametrize("case", cases("before_training"))
def test_bad_input_found_late_is_one_line_before_training(
    case: dict[str, str], tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytorch_lightning.loops.fit_loop._FitLoop.run", never("training started"))
    pattern = re.escape(line_of(case, tmp=tmp)).replace(re.escape("..."), ".+")
    found = refused(case, tmp, tmp_path)
    assert re.fullmatch(pattern, found), found


def test_every_group_of_the_table_is_refused_an_unknown_option() -> None:
    groups = {folder.name for folder in (REPOSITORY / "conf").iterdir() if folder.is_dir()} - {"claim"}  # of reproduce.py
    assert groups <= {case["typed"].partition("=")[0] for case in INPUT["before_data_are_touched"] if "no such option" in case["line"]}


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("typed", "environment"), [(["full_error=true"], {}), (["-m", "full_error=true"], {}), ([], {"HYDRA_FULL_ERROR": "1"})]
)
def test_the_whole_trace_on_request(typed: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """By `full_error=true`, or by Hydra's own variable; whoever runs a command in a shell sees Python's traceback of it."""
    with pytest.raises(ConfigError, match="epochs=0: must be") as caught:
        command(train, *typed, "epochs=0", f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}", **environment)
    names = [entry.name for entry in caught.traceback]
    assert {"train", "read_config", "check_count"} <= set(names)


def test_the_whole_trace_of_what_hydra_refuses(tmp_path: Path) -> None:
    with pytest.raises(MissingConfigException, match="Could not find 'scheduler/x'"):
        command(train, "scheduler=x", "full_error=true", f"hydra.run.dir={tmp_path}")


def test_a_fault_of_ours_is_not_made_a_fault_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is no ConfigError keeps its trace, from a run as from an import."""

    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("noisescale.app.train.check_devices", broken)
    with pytest.raises(ValueError, match="a bug"):
        run(f"hydra.run.dir={tmp_path}")


@pytest.mark.cases(2)
@pytest.mark.parametrize("typed", ["batch.size=0", "scheduler=x", "data.sise=3", "optimizer.lr=nan", "ckpt_path=x.ckpt"])
def test_what_needs_no_torch_is_refused_without_importing_it(typed: str, tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as error:\n    status = error.code\n"
        "print(status, sorted({'torch', 'pytorch_lightning', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    found = python("-c", program, f"hydra.run.dir={tmp_path}", typed)
    assert found.stdout == "2 []\n"
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1

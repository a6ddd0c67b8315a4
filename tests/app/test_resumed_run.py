"""Which run resume=<folder> goes on with, and what cannot be resumed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from noisescale.app.resume import resume_command
from tests.helpers.front_door import plan, results_of, run, run_dir
from tests.helpers.resuming import refusal, resumed
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


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

"""What the files of a run say about it, whatever has become of them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale.studies.runs import COMPLETE, STATES, changed_keys, identity, read_run, runs_in, what_differs
from noisescale.studies.table import main

WORDS = ("data.subset_size=200", "scheduler=step", "optimizer.lr=0.1")


def leave(folder: Path, words: Sequence[str] = WORDS, results: object = None, started: dict[str, Any] | None = None) -> Path:
    """Write the files of a run."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    (folder / "steps.csv").write_text("step\n0\n")
    if results is not None:
        (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    if started is not None:
        (folder / ".run.json").write_text(json.dumps(started))
    return folder


def state_of(folder: Path) -> str:
    run = read_run(folder)
    assert run is not None
    return run.state


# -- the identity --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["seed=1", "scheduler=step"], ["scheduler=step", "seed=1"]),
        (["optimizer.lr=0.10"], ["optimizer.lr=1e-1"]),
        (["+trainer.max_time=null"], ["trainer.max_time=NULL"]),
        (["data.root='a b'"], ['data.root="a b"']),
        (["seed=1", "threads=1", "hydra/launcher=pool", "hydra.launcher.n_jobs=4", "logger=csv"], ["seed=1", "logger.csv.name=x"]),
        (["seed=0", "seed=1"], ["seed=1"]),
    ],
)
def test_words_that_say_the_same_are_the_same_run(one: list[str], other: list[str]) -> None:
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["seed=1"], ["seed=0"]),
        (["seed=0"], []),  # the default may change
        (["model.width=1"], ["model.width=1.0"]),
        (["data.name='1'"], ["data.name=1"]),
        (["trainer.max_steps=10"], ["trainer.max_steps=20"]),
        (["~callbacks.best"], ["callbacks.best=null"]),
        (["ckpt_path=a.ckpt"], ["ckpt_path=b.ckpt"]),
        (["batch.size=32"], ["batch=32"]),
    ],
)
def test_words_that_say_something_else_are_another_run(one: list[str], other: list[str]) -> None:
    assert identity(one) != identity(other)


overrides = st.lists(
    st.builds("{}={}".format, st.sampled_from("abcdef"), st.one_of(st.integers(), st.floats(), st.text("xyz", min_size=1)))
)


@given(overrides, st.randoms())
def test_the_order_of_the_words_does_not_matter_and_a_canonical_form_stays(words: list[str], random: Any) -> None:
    once = {word.partition("=")[0]: word for word in words}  # of a key given twice the last one counts, so that there the order matters
    shuffled = [*once.values()]
    random.shuffle(shuffled)
    assert identity(shuffled) == identity(words) == identity(identity(words))


# -- the state -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [*COMPLETE, "interrupted"])
def test_a_status_is_that_of_the_results(status: str, tmp_path: Path) -> None:
    run = read_run(leave(tmp_path / "run", results={"status": status, "reason": "why", "commit": "abc"}))
    assert run is not None
    assert (run.state, run.reason, run.commit, run.overrides) == (status, "why", "abc", WORDS)


def test_a_run_without_results_has_the_state_in_which_it_was_left(tmp_path: Path) -> None:
    assert state_of(leave(tmp_path / "killed")) == "half-written"
    assert state_of(leave(tmp_path / "begun", started={"status": "started", "words": [*WORDS]})) == "half-written"
    for status in ("failed", "refused", "interrupted"):
        assert state_of(leave(tmp_path / status, started={"status": status, "words": [*WORDS]})) == status
    # An interrupted run that was continued, and then failed:
    assert state_of(leave(tmp_path / "again", results={"status": "interrupted"}, started={"status": "failed", "words": []})) == "failed"
    run = read_run(
        leave(tmp_path / "reasons", results={"status": "failed", "reason": "no space"}, started={"status": "failed", "reason": "x"})
    )
    assert run is not None
    assert run.reason == "no space"
    # A complete run whose logger failed afterwards:
    assert state_of(leave(tmp_path / "after", results={"status": "completed"}, started={"status": "failed", "words": []})) == "completed"


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", results={"status": "interrupted"})
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_of(folder) == "running"
    assert state_of(folder) == "interrupted"


RUBBISH = {
    "empty": b"",
    "cut off": b'{"status": "completed", "upd',
    "zeros": b"\0" * 512,
    "not text": bytes(range(128, 256)),
    "a list": b"[1, 2]",
    "a number": b"7",
    "deep": b"[" * 3000,
    "a status that is none": b'{"status": ["completed"]}',
}


@pytest.mark.parametrize("name", ["results.json", ".hydra/overrides.yaml", ".hydra/config.yaml", ".run.json"])
@pytest.mark.parametrize("rubbish", RUBBISH)
def test_damaged_files_are_read_as_what_they_are(name: str, rubbish: str, tmp_path: Path) -> None:
    folder = leave(tmp_path / "run", results=None if name == "results.json" else {"status": "interrupted"})
    (folder / name).write_bytes(RUBBISH[rubbish])
    run = read_run(folder)
    assert run is not None
    assert run.state in STATES
    assert run.state not in COMPLETE
    assert run.config is None or isinstance(run.config, dict)
    if name.endswith("overrides.yaml") and rubbish != "a status that is none":
        assert (run.state, run.overrides) == ("half-written", None)
    assert main([str(tmp_path)]) == 0


def test_files_that_are_folders_or_missing_are_no_obstacle(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run")
    (folder / "results.json").mkdir()
    assert state_of(folder) == "half-written"
    (folder / ".hydra" / "overrides.yaml").unlink()
    assert state_of(folder) == "half-written"
    assert read_run(tmp_path / "nothing") is None
    (tmp_path / "plan" / ".hydra").mkdir(parents=True)
    (tmp_path / "plan" / "plan.csv").touch()
    assert read_run(tmp_path / "plan") is None


def test_the_words_that_continue_a_run_do_not_make_it_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "it's a run"
    quoted = str(folder).replace("'", "\\'")
    own = [f"ckpt_path='{quoted}/checkpoints/last.ckpt'", f"resume='{quoted}'"]
    leave(folder, started={"status": "started", "words": [*WORDS, "ckpt_path=other.ckpt", *own]})
    run = read_run(folder)
    assert run is not None
    assert run.overrides == (*WORDS, "ckpt_path=other.ckpt")


# -- several runs --------------------------------------------------------------------------------------------------------------


def test_runs_come_in_the_order_of_their_numbers_without_the_folders_inside_them(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        leave(tmp_path / "sweep" / str(number), [f"seed={number}"])
    leave(tmp_path / "sweep" / "2" / "earlier-1")
    leave(tmp_path / "alone")
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs_in(tmp_path)] == ["alone", "sweep/2", "sweep/9", "sweep/10"]


def test_what_differs_is_what_not_all_have(tmp_path: Path) -> None:
    leave(tmp_path / "0", ["scheduler=step", "seed=0", "threads=1"])
    leave(tmp_path / "1", ["scheduler=step", "seed=1", "batch=dual"])
    assert what_differs([*runs_in(tmp_path)]) == [{"seed": "0"}, {"seed": "1", "batch": "dual"}]


def test_changed_keys_are_those_of_the_choices() -> None:
    before = {"optimizer": {"lr": 0.1, "momentum": 0.9}, "early_stopping": {}, "threads": None, "ckpt_path": None}
    after = {"optimizer": {"lr": 0.2, "momentum": 0.9}, "early_stopping": {"patience": 3}, "threads": 1, "ckpt_path": "a"}
    assert changed_keys(before, after) == ["early_stopping", "early_stopping.patience", "optimizer.lr"]
    assert changed_keys(before, before) == []


def test_the_table_shows_every_run_and_what_became_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path / "0", ["seed=[red]0"], results={"status": "completed", "test/acc": 0.5, "updates": 7, "seconds": 1.25})
    leave(tmp_path / "1", ["seed=1"], results={"status": "diverged", "test/acc": None, "reason": "lr"})
    leave(tmp_path / "2", ["seed=2"], results={"status": "completed", "test/acc": "x", "updates": "y"})
    assert main([str(tmp_path), str(tmp_path / "0")]) == 0
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert [row[1:] for row in cells] == [
        ["[red]0", "completed", "0.5000", "7", "1.2", ""],
        ["1", "diverged", "nan", "", "", "lr"],
        ["2", "completed", "", "", "", ""],
    ]
    assert out.splitlines()[-1] == "3 runs: 2 completed, 1 diverged"


def test_a_folder_without_runs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "nope")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path}: no training was started there",
        f"error: {tmp_path}/nope: is not a folder",
    ]

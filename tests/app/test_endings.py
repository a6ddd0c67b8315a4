"""How a run says that it ended: the plan's end, early stopping, a limit; and how a run that was stopped goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisescale.files import read_rows
from tests.helpers.front_door import Outcome, checkpoint_of, plan, results_of, run
from tests.helpers.trainings import ignored

SHORT = ("epochs=3", "threads=1", "logger=csv-only", "batch.last=partial", "data.subset_size=200", "max_micro_batch_size=20")
"""180 training examples: 6 updates in each epoch, five of 32 in two micro-batches and one of 20."""

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def ended(folder: Path, *arguments: str) -> tuple[Outcome, dict[str, Any]]:
    outcome = run(*SHORT, f"hydra.run.dir={folder}", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome, results_of(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endings") / "whole"
    _, results = ended(folder)
    assert (results["status"], results["reason"], results["updates"]) == ("completed", "the plan's end", 18)
    return folder


@pytest.mark.parametrize("steps", [18, 1000])
def test_a_limit_that_reaches_to_the_plans_end_changes_nothing(steps: int, tmp_path: Path) -> None:
    outcome, results = ended(tmp_path, f"trainer.max_steps={steps}", "callbacks=light")
    assert (results["status"], results["reason"], results["updates"]) == ("completed", "the plan's end", 18)
    assert "stopped" not in outcome.err


@pytest.mark.cases(1)
@pytest.mark.parametrize("steps", [2, 8])
def test_a_stopped_run_says_so_and_goes_on_as_if_it_had_not_been(steps: int, whole: Path, tmp_path: Path) -> None:
    outcome, results = ended(tmp_path, f"trainer.max_steps={steps}")
    assert (results["status"], results["reason"], results["updates"]) == ("stopped", f"trainer.max_steps={steps}", steps)
    assert outcome.lines[-1] == f"stopped: trainer.max_steps={steps}"
    assert {"test/acc", "val/acc", "train/acc"} <= set(results)  # of the weights at the stop, and of the part of the epoch
    assert len(read_rows(tmp_path / "epochs.csv")) == steps // 6 if steps > 6 else not (tmp_path / "epochs.csv").exists()

    last = tmp_path / "checkpoints" / "last.ckpt"
    outcome = run(*SHORT, f"hydra.run.dir={tmp_path}", f"ckpt_path={last}", f"trainer.max_steps={steps}")
    line = f"is at update {steps}, and trainer.max_steps={steps} allows no more; raise trainer.max_steps to go on"
    assert (outcome.status, outcome.err) == (2, f"error: ckpt_path={last}: {line}\n")

    _, results = ended(tmp_path, f"ckpt_path={last}")
    assert (results["status"], results["reason"], results["updates"]) == ("completed", "the plan's end", 18)
    assert (tmp_path / "steps.csv").read_text() == (whole / "steps.csv").read_text()
    assert without_seconds(tmp_path) == without_seconds(whole)
    mine, other = checkpoint_of(tmp_path), checkpoint_of(whole)
    assert all(torch.equal(mine["state_dict"][name], value) for name, value in other["state_dict"].items())
    assert str(mine["optimizer_states"]) == str(other["optimizer_states"])
    assert results["test/acc"] == results_of(whole)["test/acc"]


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [{name: row[name] for name in row if "second" not in name} for row in read_rows(folder / "epochs.csv")]


def test_max_time_stops_a_run_between_two_updates(tmp_path: Path) -> None:
    limit = "trainer.max_time=00:00:00:01"
    outcome, results = ended(tmp_path, "epochs=100000", limit)
    assert (results["status"], results["reason"]) == ("stopped", limit)
    assert outcome.lines[-1] == f"stopped: {limit}"
    assert "partial_gradient" not in checkpoint_of(tmp_path)
    assert checkpoint_of(tmp_path)["global_step"] == results["updates"] == len(read_rows(tmp_path / "steps.csv"))
    last = tmp_path / "checkpoints" / "last.ckpt"
    outcome = run(*SHORT, "epochs=100000", limit, f"hydra.run.dir={tmp_path}", f"ckpt_path={last}")
    assert outcome.lines[-1].endswith(f"is at update {results['updates']}, and {limit} allows no more; raise trainer.max_time to go on")


EARLY = ("+callbacks.early._target_=pytorch_lightning.callbacks.EarlyStopping", "+callbacks.early.monitor=val/loss")


def test_early_stopping_completes_a_run(tmp_path: Path) -> None:
    outcome, results = ended(tmp_path, *EARLY, "+callbacks.early.stopping_threshold=100", "trainer.val_check_interval=4")
    assert (results["status"], results["updates"]) == ("completed", 4)
    assert results["reason"].startswith("early stopping: Stopping threshold reached: val/loss = ")
    assert outcome.lines[-1] == f"completed: {results['reason']}"
    assert "test/acc" in results


def test_a_callback_that_stops_a_run(tmp_path: Path) -> None:
    stop = "+callbacks.stop._target_=tests.helpers.callbacks.StopsAfter", "+callbacks.stop.micro_batches=9"
    _, results = ended(tmp_path, *stop, "callbacks=light")
    assert (results["status"], results["updates"]) == ("stopped", 5)
    assert results["reason"] == "a callback or the module has set trainer.should_stop"


@pytest.mark.cases(1)
@pytest.mark.parametrize("limits", [("trainer.max_steps=8",), ("trainer.max_steps=8", "trainer.limit_train_batches=3"), ("batch=dual",)])
def test_the_plan_and_the_training_have_as_many_updates(limits: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan(*SHORT, *limits, f"hydra.run.dir={tmp_path}/plan").status == 0
    ended(tmp_path / "run", *limits, "callbacks=light")
    planned, done = (read_rows(tmp_path / name) for name in ("plan/plan.csv", "run/steps.csv"))
    assert [{name: row[name] for name in row if name != "loss"} for row in done] == planned


def test_the_memory_limit_does_not_move_a_validation(tmp_path: Path) -> None:
    """Nor do growing batches end a run whose epochs become shorter than the interval."""
    dual = ("batch=dual", "optimizer=sgd", "trainer.val_check_interval=5", "callbacks=light", "logger=tensorboard")
    validated = []
    for limit in ("null", "7"):
        ended(tmp_path / limit, *dual, f"max_micro_batch_size={limit}")
        validated.append(logged_steps(tmp_path / limit, "val/loss"))
    assert validated[0] == validated[1]
    assert len(validated[0]) == 3


def logged_steps(folder: Path, tag: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]

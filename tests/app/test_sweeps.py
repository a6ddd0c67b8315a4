"""Sweeps: several runs of train.py, one after another or at once, none of which affects the others."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from unittest.mock import ANY

import pytest

from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, plan, process, results_of, run
from tests.helpers.processes import PATIENCE, started, wait_until
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def table_of(out: str) -> list[list[str]]:
    """The cells of the table at the end of a sweep, which there must be once, with the folder of the sweep after it."""
    assert out.count("┏") == out.count("└") == 1
    lines = out[out.index("┏") :].splitlines()
    assert lines[-2].startswith("└")
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines if line[0] in "┃│"]


def test_a_sweep_carries_out_every_run_whatever_becomes_of_the_others(tmp_path: Path) -> None:
    choices = (*QUICK, "optimizer=sgd", "callbacks=light", "logger=csv-only")
    outcome = run("-m", f"hydra.sweep.dir={tmp_path}/sweep", *choices, "optimizer.lr=1e6,-1,0.1")
    assert outcome.status == 2
    assert table_of(outcome.out) == [
        ["run", "optimizer.lr", "status", "test accuracy", "updates", "seconds"],
        ["0", "1000000.0", "diverged", "", ANY, ANY],
        ["1", "-1", "refused", "", "", ""],
        ["2", "0.1", "completed", f"{results_of(tmp_path / 'sweep' / '2')['test/acc']:.4f}", "6", ANY],
    ]
    errors = [line for line in outcome.lines if "error" in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith("error: optimizer.lr=-1: must be a finite number in (0, inf)  (run: ")
    assert "optimizer.lr=-1" in errors[0].partition("(run: ")[2]
    assert "Traceback" not in outcome.err
    assert results_of(tmp_path / "sweep" / "0")["status"] == "diverged"
    assert not (tmp_path / "sweep" / "1" / "results.json").exists()
    assert results_of(tmp_path / "sweep" / "2")["status"] == "completed"
    # A run gives the same results in a sweep as on its own.
    assert run(*choices, "optimizer.lr=0.1", f"hydra.run.dir={tmp_path}/alone").status == 0
    assert (tmp_path / "alone" / "steps.csv").read_text() == (tmp_path / "sweep" / "2" / "steps.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["pool", "joblib"])
def test_a_sweep_with_two_runs_at_once_is_the_same_as_one_after_the_other(launcher: str, tmp_path: Path) -> None:
    choices = (*QUICK, "optimizer=sgd", "callbacks=light", "optimizer.lr=0.1,-1,1e6,0.2")
    two = process("-m", f"hydra.sweep.dir={tmp_path}/two", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2", *choices)
    assert two.returncode == 2, two.stderr
    assert "Traceback" not in two.stderr
    assert "Error executing" not in two.stderr
    assert two.stderr.count("error: optimizer.lr=-1: must be a finite number in (0, inf)") == 1
    rates = [("0.1", "completed"), ("-1", "refused"), ("1000000.0", "diverged"), ("0.2", "completed")]
    assert [(row[1], row[2]) for row in table_of(two.stdout)[1:]] == rates
    for rate, status in (rates[0], rates[2], rates[3]):
        assert f"optimizer.lr={rate}: {status}, " in two.stdout
    assert run("-m", f"hydra.sweep.dir={tmp_path}/one", *choices).status == 2
    assert results_of(tmp_path / "two" / "2")["status"] == "diverged"
    for number in ("0", "3"):
        assert results_of(tmp_path / "two" / number)["status"] == "completed"
        assert (tmp_path / "two" / number / "steps.csv").read_text() == (tmp_path / "one" / number / "steps.csv").read_text()
    # The names of TensorBoard's files contain the process id.
    pids = {file.name.split(".")[-2] for file in (tmp_path / "two").glob("*/events.out.tfevents.*")}
    assert 1 <= len(pids) <= 2


@pytest.mark.slow
def test_the_line_of_a_run_names_what_the_sweep_varies(tmp_path: Path) -> None:
    """Not the words that hold for all runs, and not what a run has from a list in brackets."""
    words = ("+trainer.max_time=null", "batch.size=40", "logger=[tensorboard,csv]", "callbacks=light")
    outcome = run("-m", *QUICK, *words, "scheduler=step,wsd", "optimizer.lr=0.1,0.2", "seed=3", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    varied = [f"scheduler={scheduler} optimizer.lr={lr}" for scheduler in ("step", "wsd") for lr in (0.1, 0.2)]
    lines = [line for line in outcome.out.splitlines() if ": completed, " in line]
    for line, choice, number in zip(lines, varied, "0123", strict=True):
        results = results_of(tmp_path / number)
        assert line == f"{choice}: completed, test accuracy {results['test/acc']:.4f}, {results['updates']} updates"
        assert [*choice.split(), "seed=3"] == results["overrides"][-3:]
        chosen = {name: results["choices"][name] for name in ("scheduler", "optimizer", "optimizer.lr", "batch.size", "seed", "logger")}
        assert (chosen.pop("scheduler"), chosen.pop("optimizer.lr")) == (choice.split()[0][10:], float(choice[-3:]))
        assert chosen == {"optimizer": "momentum", "batch.size": 40, "seed": 3, "logger": ["tensorboard", "csv"]}
    assert table_of(outcome.out)[0] == ["run", "scheduler", "optimizer.lr", "status", "test accuracy", "updates", "seconds"]


@pytest.mark.slow
def test_the_line_of_the_only_run_of_a_sweep_has_all_of_its_words(tmp_path: Path) -> None:
    words = ("callbacks=light", *QUICK, "trainer.max_steps=1")
    outcome = run("-m", *words, f"hydra.sweep.dir={tmp_path}")
    assert f"\n{' '.join(words)}: stopped, test accuracy" in outcome.out
    outcome = run("-m", "callbacks=light", "epochs=0", f"hydra.sweep.dir={tmp_path}/refused")
    assert outcome.err == "error: epochs=0: must be a whole number of epochs, at least 1  (run: callbacks=light epochs=0)\n"


def test_a_sweep_that_is_interrupted_ends_with_the_table_of_its_runs(tmp_path: Path) -> None:
    lean = (*QUICK, "callbacks=light", "logger=csv-only")
    ends = "+callbacks.end._target_=tests.helpers.callbacks.Interrupts"
    outcome = run("-m", *lean, ends, "seed=0,1", f"hydra.sweep.dir={tmp_path}/one")
    assert outcome.status == 130
    assert [row[:3] for row in table_of(outcome.out)[1:]] == [["0", "0", "interrupted"]]


@pytest.mark.slow
def test_a_sweep_into_the_folder_of_another_does_not_take_its_results_for_its_own(tmp_path: Path) -> None:
    lean = (*QUICK, "callbacks=light", "logger=csv-only", f"hydra.sweep.dir={tmp_path}")
    assert run("-m", *lean, "seed=0,1").status == 0
    outcome = run("-m", *lean, "optimizer.lr=-1,0.1")
    assert [[row[0], *row[2:4]] for row in table_of(outcome.out)[1:]] == [["2", "refused", ""], ["3", "completed", ANY]]


def test_a_sweep_of_plans_has_no_table_of_trainings(tmp_path: Path) -> None:
    outcome = plan("-m", "batch.size=32,0", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 2
    assert "status" not in outcome.out


def test_a_pool_without_processes_is_refused(tmp_path: Path) -> None:
    outcome = run("-m", f"hydra.sweep.dir={tmp_path}", "hydra/launcher=pool", "hydra.launcher.n_jobs=0", "seed=0,1")
    assert outcome.status == 2
    assert outcome.lines[-1] == "error: hydra.launcher.n_jobs=0: must be a whole number of processes, at least 1"


@pytest.mark.slow
def test_an_error_that_does_not_travel_between_processes_stops_no_other_run(tmp_path: Path) -> None:
    failing = ("+callbacks.end._target_=tests.helpers.callbacks.FailsWithSeed0", "callbacks=light", "logger=csv-only")
    done = process("-m", f"hydra.sweep.dir={tmp_path}", "hydra/launcher=pool", *QUICK, *failing, "seed=0,1,2")
    assert done.returncode == 1
    assert [row[2] for row in table_of(done.stdout)[1:]] == ["failed", "completed", "completed"]
    assert "Unpicklable: first second" in done.stderr
    assert "was killed" not in done.stderr
    assert [results_of(tmp_path / number)["status"] for number in ("1", "2")] == ["completed", "completed"]


ENDLESS = ("-m", "hydra/launcher=pool", "epochs=100000", "threads=1")


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False])
def test_an_interrupted_pool_ends_and_starts_nothing_more(group: bool, tmp_path: Path) -> None:
    with started("train.py", *ENDLESS, "seed=0,1,2", f"hydra.sweep.dir={tmp_path}") as running:
        try:
            wait_until(lambda: all(read_rows(tmp_path / number / "epochs.csv") for number in ("0", "1")), running)
            (os.killpg if group else os.kill)(running.pid, signal.SIGINT)
            _, said = running.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130, said
    assert said.splitlines()[-1].startswith("error: interrupted by SIGINT; the same command ")
    assert [results_of(tmp_path / number)["status"] for number in ("0", "1")] == ["interrupted", "interrupted"]
    assert not (tmp_path / "2").exists()


@pytest.mark.slow
def test_a_signal_to_one_process_of_a_pool_is_that_of_the_sweep(tmp_path: Path) -> None:
    with started("train.py", *ENDLESS, "seed=0,1", f"hydra.sweep.dir={tmp_path}") as running:
        try:
            wait_until(lambda: all(read_rows(tmp_path / number / "epochs.csv") for number in ("0", "1")), running)
            os.kill(int((tmp_path / "1" / ".lock").read_text().split()[0]), signal.SIGTERM)
            _, said = running.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 143, said
    assert [results_of(tmp_path / number)["reason"].split()[0] for number in ("0", "1")] == ["SIGTERM", "SIGTERM"]


@pytest.mark.slow
def test_a_pool_whose_sweep_is_killed_ends_too(tmp_path: Path) -> None:
    with started("train.py", *ENDLESS, "seed=0,1", f"hydra.sweep.dir={tmp_path}") as running:
        wait_until(lambda: read_rows(tmp_path / "0" / "epochs.csv"), running)
        running.kill()
        running.communicate(timeout=PATIENCE)  # returns when no process holds stderr any more, so the pool has ended


@pytest.mark.slow
def test_a_killed_process_of_a_pool_costs_its_own_run_alone(tmp_path: Path) -> None:
    words = ("-m", f"hydra.sweep.dir={tmp_path}/sweep", "hydra/launcher=pool", "data.subset_size=200", "epochs=3", "threads=1")
    kills = [f"+callbacks.end.{word}" for word in (f"mark={tmp_path}/mark", "kill=true", "seed=1", "epoch=2")]
    kills.append("+callbacks.end._target_=tests.helpers.callbacks.EndsOnce")
    first = process(*words, *kills, "seed=range(8)")
    assert first.returncode == 1
    said = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: its process was killed by SIGKILL, perhaps because memory ran out; the other runs are carried out  (run: seed=1)"
    ]
    assert "Traceback" not in first.stderr
    assert [row[2] for row in table_of(first.stdout)[1:]] == ["completed", "failed", *["completed"] * 6]
    # The same command finishes it, from its checkpoint.
    second = process(*words, *kills, "seed=range(8)")
    assert second.returncode == 0, second.stderr
    assert "7 kept, because they are complete (7 completed), 1 continued" in second.stderr
    assert [row[2] for row in table_of(second.stdout)[1:]] == ["completed"] * 8
    alone = process(*words[2:], "seed=1", f"hydra.run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "alone" / "steps.csv").read_text() == (tmp_path / "sweep" / "1" / "steps.csv").read_text()


@pytest.mark.slow
def test_a_run_that_always_kills_its_process_is_not_tried_for_ever(tmp_path: Path) -> None:
    killer = ("+callbacks.end._target_=tests.helpers.callbacks.KilledByTheSystem", "callbacks=light", "logger=csv-only")
    done = process("-m", f"hydra.sweep.dir={tmp_path}", "hydra/launcher=pool", *QUICK, *killer, "seed=0,1,2")
    assert done.returncode == 1
    assert done.stderr.count("error: its process was killed by SIGKILL") == 3
    assert [row[2] for row in table_of(done.stdout)[1:]] == ["failed"] * 3


@pytest.mark.slow
def test_a_process_of_a_pool_that_exits_is_said_with_its_status(tmp_path: Path) -> None:
    exits = ("+callbacks.end._target_=tests.helpers.callbacks.Exits", "+callbacks.end.status=7", "callbacks=light", "logger=csv-only")
    done = process("-m", f"hydra.sweep.dir={tmp_path}", "hydra/launcher=pool", *QUICK, *exits, "seed=0,1")
    assert done.returncode == 1
    assert done.stderr.count("error: its process ended with exit status 7; the other runs are carried out") == 2


@pytest.mark.slow
def test_a_bug_in_a_run_of_a_pool_is_not_taken_for_a_slip(tmp_path: Path) -> None:
    """Hydra's own ValueError for a group set to a number is; the error of a run comes with its traceback."""
    failing = ("+callbacks.end._target_=tests.helpers.callbacks.RaisesValueError", "callbacks=light", "logger=csv-only")
    done = process("-m", f"hydra.sweep.dir={tmp_path}", "hydra/launcher=pool", *QUICK, *failing, "model=mlp,logistic")
    assert done.returncode == 1
    assert "no such option" not in done.stderr
    assert "Traceback" in done.stderr
    assert "a bug of the user's" in done.stderr

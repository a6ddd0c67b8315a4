"""The loggers of a run: several at once, each with the choices of the run, opened and closed by it, whatever becomes of it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from noisescale.app import loggers
from noisescale.files import read_rows
from tests.helpers.front_door import QUICK, results_of, run
from tests.helpers.loggers import Recording, records_of
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

MINE = "+logger.mine._target_=tests.helpers.loggers.Recording"
LIGHT = (*QUICK, "callbacks=light")


@pytest.fixture(autouse=True)
def _no_events_of_others() -> None:
    Recording.events.clear()


def of(name: str, what: str) -> list[Any]:
    """What a logger was told."""
    return [value for logger, kind, value in Recording.events if (logger, kind) == (name, what)]


def test_the_choices_of_a_run_reach_each_of_its_loggers(tmp_path: Path) -> None:
    outcome = run(*LIGHT, "logger=[tensorboard,csv]", MINE, "scheduler=step", "optimizer.lr=0.03", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    (given,) = of("recording", "parameters")
    assert (given["scheduler"]["gamma"], given["optimizer"]["lr"], given["scheduler/option"]) == (0.5, 0.03, "step")
    assert "default_root_dir" not in given["trainer"]
    for file in ("hparams.yaml", "csv/version_0/hparams.yaml"):
        assert OmegaConf.load(tmp_path / file) == given
    kinds = [kind for _, kind, _ in Recording.events]
    assert kinds[:2] == ["open", "parameters"]
    assert kinds[-1] == "end"
    assert of("recording", "finalize")[-1] == "success"


def test_each_logger_has_every_update_and_the_final_metrics(tmp_path: Path) -> None:
    assert run(*LIGHT, "logger=csv", MINE, f"hydra.run.dir={tmp_path}").status == 0
    results, steps = results_of(tmp_path), read_rows(tmp_path / "steps.csv")
    logged = of("recording", "metrics")
    assert [values["train/loss"] for _, values in logged if "lr" in values] == pytest.approx([float(row["loss"]) for row in steps])
    step, finals = logged[-1]
    assert step == results["updates"] == 6
    expected = {name: results[name] for name in ("train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc", "updates")}
    assert finals == {f"final/{name}": value for name, value in expected.items()}
    last = read_rows(tmp_path / "csv" / "version_0" / "metrics.csv")[-1]
    assert float(last["final/test/acc"]) == pytest.approx(results["test/acc"])


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("words", "status", "closed"),
    [
        (["optimizer=sgd", "optimizer.lr=1e6"], 3, "failed"),
        (["+trainer.overfit_batches=2"], 2, "failed"),  # refused when training starts
        (["+callbacks.end._target_=tests.helpers.callbacks.Interrupts"], 130, "failed"),
        (["trainer.max_steps=2"], 0, "success"),
    ],
)
def test_a_run_closes_its_loggers_however_it_ends(words: list[str], status: int, closed: str, tmp_path: Path) -> None:
    assert run(*LIGHT, "logger=csv-only", MINE, *words, f"hydra.run.dir={tmp_path}").status == status
    assert [kind for _, kind, _ in Recording.events][-2:] == ["finalize", "end"]
    assert of("recording", "finalize")[-1] == closed
    assert len(of("recording", "end")) == 1


def test_a_bug_closes_them_too(tmp_path: Path) -> None:
    failing = "+callbacks.end._target_=tests.helpers.callbacks.RaisesValueError"
    with pytest.raises(ValueError, match="a bug of the user's"):
        run(*LIGHT, "logger=csv-only", MINE, failing, f"hydra.run.dir={tmp_path}")
    assert of("recording", "finalize")[-1] == "failed"
    assert len(of("recording", "end")) == 1


@pytest.mark.slow
def test_in_a_sweep_each_run_opens_and_closes_its_own(tmp_path: Path) -> None:
    diverging = ("optimizer=sgd", "optimizer.lr=1e6,0.1", "+trainer.overfit_batches=0,2", "+logger.mine.name=each")
    assert run("-m", *LIGHT, "logger=csv-only", MINE, *diverging, f"hydra.sweep.dir={tmp_path}").status == 2
    kinds = [kind for _, kind, _ in Recording.events if kind in ("open", "end")]
    assert kinds == ["open", "end"] * 4
    assert [given["optimizer"]["lr"] for given in of("each", "parameters")] == [1e6, 1e6, 0.1, 0.1]


def test_a_logger_of_ones_own_alone_and_beside_others(tmp_path: Path) -> None:
    words = ("logger._target_=tests.helpers.loggers.Recording", "+logger.name=own")
    assert run(*LIGHT, "logger=other", *words, f"hydra.run.dir={tmp_path}/alone").status == 0
    assert len(of("own", "end")) == 1
    assert run(*LIGHT, "logger=[csv,other]", *words, MINE, f"hydra.run.dir={tmp_path}/beside").status == 0
    assert (len(of("own", "end")), len(of("recording", "end"))) == (2, 1)
    assert (tmp_path / "beside" / "csv" / "version_0" / "metrics.csv").exists()


def test_null_switches_one_off(tmp_path: Path) -> None:
    assert run(*LIGHT, "logger=[csv,tensorboard]", "logger.csv=null", f"hydra.run.dir={tmp_path}").status == 0
    assert not (tmp_path / "csv").exists()
    assert [*tmp_path.glob("events.out.tfevents.*")]


def test_a_logger_that_cannot_be_opened_is_one_line_and_closes_those_before_it(tmp_path: Path) -> None:
    other = ("+logger.late._target_=tests.helpers.loggers.Recording", "+logger.late.name=late", "+logger.late.fails=open")
    outcome = run(*LIGHT, "logger=csv-only", MINE, *other, f"hydra.run.dir={tmp_path}")
    assert (outcome.status, outcome.lines[0]) == (2, "error: logger=late: cannot be opened: no connection to the server")
    assert (of("recording", "finalize"), len(of("recording", "end"))) == (["failed"], 1)
    assert not (tmp_path / "steps.csv").exists()


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("close", "note: logger.gone could not be closed: the server is gone"),
        ("report", "note: logger.gone could not log the results: the disk is full"),
    ],
)
def test_a_logger_that_cannot_be_closed_is_one_line_and_stops_nothing(fails: str, line: str, tmp_path: Path) -> None:
    other = ("+logger.gone._target_=tests.helpers.loggers.Recording", "+logger.gone.name=gone", f"+logger.gone.fails={fails}")
    outcome = run(*LIGHT, "logger=csv-only", *other, MINE.replace("mine", "zoe"), "+logger.zoe.name=zoe", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0
    assert outcome.lines[-1] == line
    assert len(of("zoe", "end")) == 1
    assert (tmp_path / "results.json").exists()


def test_a_logger_whose_package_is_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        outcome = run(*LIGHT, f"logger={name}", f"hydra.run.dir={tmp_path}")
        assert outcome.status == 2
        assert outcome.lines == [f'error: logger={name}: needs the package {name}; pip install "noisescale[{name}]"']


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the two packages
def test_wandb_and_mlflow_have_a_run_for_each_run_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real packages, without a network: W&B in its offline mode, MLflow with a folder."""
    pytest.importorskip("wandb", reason="of the extra `wandb`")
    pytest.importorskip("mlflow", reason="of the extra `mlflow`")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "MLFLOW_ALLOW_FILE_STORE": "true"}.items():
        monkeypatch.setenv(name, value)
    store = (tmp_path / "store").as_uri()
    words = ("logger=[wandb,mlflow]", f"logger.mlflow.tracking_uri={store}", "optimizer=sgd", "optimizer.lr=0.1,1e6")
    outcome = run("-m", *LIGHT, *words, f"hydra.sweep.dir={tmp_path}/sweep")
    assert outcome.status == 0, outcome.err
    assert [results_of(tmp_path / "sweep" / number)["status"] for number in ("0", "1")] == ["completed", "diverged"]
    accuracy = results_of(tmp_path / "sweep" / "0")["test/acc"]

    seen = []
    for number in ("0", "1"):
        (file,) = (tmp_path / "sweep" / number / "wandb").glob("offline-run-*/run-*.wandb")
        config: dict[str, Any] = {}
        summary: dict[str, Any] = {}
        code = None
        for record in records_of(file):
            config |= {item.key: json.loads(item.value_json) for item in (*record.run.config.update, *record.config.update) if item.key}
            summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            code = record.exit.exit_code if record.WhichOneof("record_type") == "exit" else code
        seen.append((config["optimizer"]["lr"], config["scheduler/option"], code))
        if number == "0":
            assert float(summary["final/test/acc"]) == pytest.approx(accuracy)
    assert seen == [(0.1, "cosine", 0), (1e6, "cosine", 1)]

    client: Any = import_module("mlflow.tracking").MlflowClient(store)
    experiment = client.get_experiment_by_name("noisescale")
    found = {run.data.params["optimizer/lr"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {lr: run.info.status for lr, run in found.items()} == {"0.1": "FINISHED", "1000000.0": "FAILED"}
    assert found["0.1"].data.metrics["final/test/acc"] == pytest.approx(accuracy)
    assert found["0.1"].data.params["scheduler/option"] == "cosine"

"""train.py as a user runs it: resume, divergence, several processes. Most runs are in this process."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import cast

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torchmetrics import Metric

import train
from noisescale.app.outcome import Outcome as EndOfRun
from noisescale.app.outcome import judge
from noisescale.files import read_rows
from noisescale.models import Classifier
from tests.helpers.finished import FULL, Finished
from tests.helpers.front_door import checkpoint_of, losses_of, process, results_of, run, run_dir
from tests.helpers.repository import CONF
from tests.helpers.trainings import ignored

REPOSITORY = Path(train.__file__).resolve().parent
QUICK = ("data.subset_size=200", "epochs=1", "threads=1")
"""180 training examples, 6 updates of 32."""


pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


# -- resume --------------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one(full: Finished, tmp_path: Path) -> None:
    def part(epochs: int, *more: str) -> None:
        assert run(*FULL, f"hydra.run.dir={tmp_path}", f"epochs={epochs}", *more).status == 0

    part(2)
    assert len(read_rows(tmp_path / "steps.csv")) == 26
    part(4, f"ckpt_path={tmp_path}/checkpoints/last.ckpt")
    assert (tmp_path / "steps.csv").read_text() == (full.folder / "steps.csv").read_text()
    mine, other = checkpoint_of(tmp_path)["state_dict"], checkpoint_of(full.folder)["state_dict"]
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    for row, expected in zip(read_rows(tmp_path / "epochs.csv"), read_rows(full.folder / "epochs.csv"), strict=True):
        assert {name: row[name] for name in row if "second" not in name} == {name: expected[name] for name in row if "second" not in name}
    for name in ("test/acc", "test/loss", "val/acc", "updates", "examples"):
        assert results_of(tmp_path)[name] == full.results[name]


@pytest.mark.cases(2)
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*")
@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ("model.widths=[8]", r"model\.widths=\[8\]: the checkpoint was trained with model\.widths=.*; resume with the same, or start anew"),
        ("optimizer=adam", r"optimizer\.\S+=\S+: the checkpoint was trained with .*; resume with the same, or start anew"),
        ("optimizer.lr=0.3", r"optimizer\.lr=0\.3: the checkpoint was trained with optimizer\.lr=\S+; resume with the same, or start anew"),
        ("data.subset_size=500", r"data\.subset_size=500: the checkpoint was trained with .*; resume with the same, or start anew"),
        ("epochs=4", r"ckpt_path=\S+: is already at the end, epoch 4; raise epochs to go on"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(full: Finished, tmp_path: Path, choice: str, line: str) -> None:
    link = tmp_path / "last.ckpt"
    link.symlink_to(full.folder / "checkpoints" / "last.ckpt")
    outcome = run(*FULL, "epochs=5", "callbacks=light", f"ckpt_path={link}", f"hydra.run.dir={tmp_path}/run", choice)
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert re.fullmatch(f"error: {line}", outcome.lines[0]), outcome.err
    assert not (tmp_path / "run" / "results.json").exists()


# -- less than everything ------------------------------------------------------------------------------------------------------


def test_without_validation_there_is_no_best_checkpoint(tmp_path: Path) -> None:
    outcome = run(*QUICK, "data.val_fraction=0", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    results = results_of(tmp_path)
    assert results["num_examples"] == 200
    assert "test/acc" in results
    assert not any(name.startswith("val/") for name in results)


@pytest.mark.parametrize("every", [2, 30])
def test_the_last_checkpoint_is_the_last_epoch_whenever_validation_ran(tmp_path: Path, every: int) -> None:
    outcome = run(*QUICK, "epochs=3", f"trainer.check_val_every_n_epoch={every}", f"hydra.run.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    assert checkpoint_of(tmp_path)["global_step"] == results_of(tmp_path)["updates"]


def test_without_callbacks_and_logger_a_run_leaves_its_results_alone(tmp_path: Path) -> None:
    outcome = run(*QUICK, "callbacks=none", "logger=csv-only", f"hydra.run.dir={tmp_path}")
    assert (outcome.status, outcome.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", ".run.json", "results.json"]
    assert results_of(tmp_path)["updates"] == 6


def test_a_callback_is_switched_off_by_null(tmp_path: Path) -> None:
    assert run(*QUICK, "callbacks.best=null", "logger=csv-only", f"hydra.run.dir={tmp_path}").status == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (tmp_path / "epochs.csv").exists()


def test_a_second_run_in_the_same_folder_sets_the_rows_of_the_first_aside(tmp_path: Path) -> None:
    for seed in (0, 1):
        assert run(*QUICK, "callbacks=light", "logger=csv-only", f"seed={seed}", f"hydra.run.dir={tmp_path}").status == 0
    earlier = tmp_path / "earlier-1"
    assert {path.name for path in earlier.iterdir()} == {".hydra", "steps.csv", "epochs.csv", "results.json"}
    now = {".hydra", ".run.json", "steps.csv", "epochs.csv", "results.json", "earlier-1"}
    assert {path.name for path in tmp_path.iterdir()} == now
    assert (tmp_path / "steps.csv").read_text() != (earlier / "steps.csv").read_text()
    assert [results_of(folder)["seed"] for folder in (earlier, tmp_path)] == [0, 1]


# -- divergence ----------------------------------------------------------------------------------------------------------------


def test_a_diverging_run_stops_within_an_update_and_keeps_its_files(tmp_path: Path) -> None:
    outcome = run(*QUICK, "epochs=20", "optimizer=sgd", "optimizer.lr=1e6", f"hydra.run.dir={tmp_path}")
    losses, results = losses_of(tmp_path), results_of(tmp_path)
    assert outcome.status == 3
    assert len(losses) >= 2
    assert all(map(math.isfinite, losses[:-1]))
    assert not math.isfinite(losses[-1])
    good, step = len(losses) - 2, len(losses) - 1
    expected = f"training diverged: loss {losses[-1]} at update {step}; last good update {good} (loss {losses[good]:.4g}); most likely lr="
    assert outcome.lines[-1].startswith(expected)
    assert len(outcome.lines) == 2  # the description of the batch, then this line
    assert (results["status"], results["updates"]) == ("diverged", len(losses))
    assert results["reason"] == outcome.lines[-1]
    assert "test/acc" not in results
    assert any(path.name.startswith("events.out") for path in tmp_path.iterdir())


def test_weights_that_diverge_in_the_very_last_update_are_found_by_the_test(tmp_path: Path) -> None:
    outcome = run(
        *QUICK, "batch=full", "data.val_fraction=0", "optimizer=sgd", "optimizer.lr=1e30", "logger=csv-only", f"hydra.run.dir={tmp_path}"
    )
    results = results_of(tmp_path)
    assert all(map(math.isfinite, losses_of(tmp_path)))
    assert (outcome.status, results["status"]) == (3, "diverged")
    assert results["test/loss"] is None
    assert outcome.lines[-1] == results["reason"]
    assert "training diverged: the last update left weights that give test/loss" in results["reason"]


@pytest.mark.parametrize(
    ("metrics", "status", "said"),
    [
        ({"train/loss": 1.0, "test/loss": math.nan}, "diverged", "the last update left weights that give test/loss nan; lower"),
        ({"train/loss": math.inf, "test/loss": math.nan}, "diverged", "diverged: train/loss inf, test/loss nan; lower optimizer.lr"),
        ({"train/loss": 1.0, "val/loss": math.nan}, "diverged", "weights that give val/loss nan"),
        ({"train/loss": 1.0, "val/loss": math.nan, "test/loss": 1.0}, "completed", "note: not finite: val/loss nan"),
        ({"train/loss": 1.0, "val/loss": 1.0, "test/loss": 1.0, "test_auc": math.nan}, "completed", "note: not finite: test_auc nan"),
    ],
)
def test_only_the_losses_of_the_weights_at_the_end_show_that_they_diverged(
    metrics: dict[str, float], status: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Classifier(torch.nn.Flatten(), lambda net: torch.optim.SGD(net.parameters()))
    assert status_of(module, metrics)[0] == status
    assert said in status_of(module, metrics)[1] + capsys.readouterr().err


def test_nothing_is_read_into_the_metrics_of_another_module(capsys: pytest.CaptureFixture[str]) -> None:
    module = pl.LightningModule()
    assert status_of(module, {"train/loss": math.nan, "test/loss": math.inf, "test_auc": math.nan})[0] == "completed"
    assert capsys.readouterr().err == "note: not finite: train/loss nan, test/loss inf, test_auc nan\n"


def status_of(module: pl.LightningModule, metrics: dict[str, float]) -> tuple[str, str]:
    outcome = EndOfRun(metrics=dict(metrics))
    judge(outcome, module)
    return outcome.status, outcome.reason


def test_an_example_whose_loss_is_nan_is_not_left_out_of_the_mean() -> None:
    module = Classifier(torch.nn.Flatten(), lambda net: torch.optim.SGD(net.parameters()))
    mean = cast(Metric, module.mean_loss["val"])
    mean.update(torch.tensor([0.5, math.nan]))
    assert math.isnan(mean.compute())


# -- several processes ---------------------------------------------------------------------------------------------------------

TWO = (*QUICK, "batch.size=50", "max_micro_batch_size=20", "callbacks=light", "logger=csv-only")


def assert_same_run(two: Path, one: Path) -> None:
    rows, expected = read_rows(two / "steps.csv"), read_rows(one / "steps.csv")
    assert len(rows) == len(expected) == 4
    for row, other in zip(rows, expected, strict=True):
        assert {name: row[name] for name in ("step", "epoch", "examples_seen", "lr", "effective_batch_size", "g")} == {
            name: other[name] for name in ("step", "epoch", "examples_seen", "lr", "effective_batch_size", "g")
        }
        # Single precision, 1.2e-7: four updates of 50 examples, whose sums are computed in a different order.
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-4)
    assert results_of(two)["status"] == "completed"
    assert results_of(two)["examples"] == results_of(one)["examples"]
    assert results_of(two)["test/acc"] == pytest.approx(results_of(one)["test/acc"], abs=1.1 / 360)


@pytest.mark.slow  # 25 s: two processes import torch
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    two = process(*TWO, "trainer=ddp_cpu", run_dir(tmp_path / "it's two"))
    assert two.returncode == 0, two.stderr
    assert "effective 50 ~ 13 micro x 2 accumulate x 2 devices" in two.stderr
    assert two.stdout.count("test accuracy") == 1
    assert run(*TWO, f"hydra.run.dir={tmp_path}/one").status == 0
    assert_same_run(tmp_path / "it's two", tmp_path / "one")


@pytest.mark.slow  # 40 s
def test_two_processes_in_a_sweep(tmp_path: Path) -> None:
    two = process("-m", *TWO, "trainer=ddp_cpu", "seed=3,-1,4", f"hydra.sweep.dir={tmp_path}")
    assert two.returncode == 2, two.stderr
    assert two.stderr.count("error: seed=-1: ") == 1
    for number, seed in (("0", 3), ("2", 4)):
        assert run(*TWO, f"seed={seed}", f"hydra.run.dir={tmp_path}/alone{seed}").status == 0
        assert_same_run(tmp_path / number, tmp_path / f"alone{seed}")


# -- debug ---------------------------------------------------------------------------------------------------------------------


def test_debug_fast_goes_through_every_part(tmp_path: Path) -> None:
    assert run("debug=fast", "threads=1", f"hydra.run.dir={tmp_path}").status == 0
    assert results_of(tmp_path)["updates"] < 100
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


@pytest.mark.slow
def test_debug_overfit_learns_its_examples_by_heart(tmp_path: Path) -> None:
    assert run("debug=overfit", "callbacks=light", "logger=csv-only", "threads=1", f"hydra.run.dir={tmp_path}").status == 0
    assert results_of(tmp_path)["train/acc"] == 1.0


def test_a_csv_of_a_run_is_a_csv(full: Finished) -> None:
    """The file can be read with the csv module, without our own reader."""
    with (full.folder / "steps.csv").open(newline="") as file:
        assert [row["loss"] for row in csv.DictReader(file)] == [row["loss"] for row in full.rows]


def test_the_order_of_groups_on_the_command_line_does_not_matter(tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        one = compose("config", ["optimizer.lr=0.3", "optimizer=adam", "output_dir=x"])
        two = compose("config", ["optimizer=adam", "optimizer.lr=0.3", "output_dir=x"])
    assert one == two
    assert one.optimizer.lr == 0.3

"""train.py as a user runs it: the files of a run, resume, divergence, several processes. Most runs are in this process."""

from __future__ import annotations

import csv
import math
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torchmetrics import Metric

import train
from noisescale.app.config import build
from noisescale.app.outcome import Outcome as EndOfRun
from noisescale.app.outcome import judge
from noisescale.files import read_rows
from noisescale.models import Classifier
from tests.helpers.front_door import Outcome, checkpoint_of, losses_of, process, results_of, run, run_dir
from tests.helpers.models import network_of
from tests.helpers.repository import CONF
from tests.helpers.trainings import ignored

REPOSITORY = Path(train.__file__).resolve().parent
QUICK = ("data.subset_size=200", "epochs=1", "threads=1")
"""180 training examples, 6 updates of 32."""

STEPS = "step,epoch,examples_seen,lr,effective_batch_size,micro_batch_size,accumulate_grad_batches,g,loss"
SCALARS = {"train/loss", "lr", "batch/effective", "batch/micro", "batch/accumulate", "noise/g", "noise/g_momentum"}

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


# -- what a run leaves behind --------------------------------------------------------------------------------------------------

FULL = ("epochs=4", "threads=1", "scheduler=constant", "batch.size=100", "batch.last=partial", "max_micro_batch_size=40")
"""A schedule whose horizon does not depend on `epochs`; 12 updates of 100 and one of 93 in each epoch."""


@dataclass(frozen=True)
class Finished:
    folder: Path
    outcome: Outcome
    rows: list[dict[str, str]]
    results: dict[str, Any]
    elapsed: float
    """Seconds that the command took, of whatever clock this machine has."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("front door") / "with space=and 'quote"
    began = time.perf_counter()
    outcome = run(*FULL, run_dir(folder))
    elapsed = time.perf_counter() - began
    assert outcome.status == 0, outcome.err
    return Finished(folder, outcome, read_rows(folder / "steps.csv"), results_of(folder), elapsed)


def test_a_run_ends_with_a_short_table(full: Finished) -> None:
    for words in (
        "test accuracy",
        f"{full.results['test/acc']:.4f}",
        "updates",
        "52",
        "seconds",
        "examples/s",
        os.path.relpath(full.folder),
    ):
        assert words in full.outcome.out
    line = full.outcome.out.splitlines()[-1]
    assert "tensorboard --logdir" in line
    assert line.endswith(shlex.quote(os.path.relpath(full.folder)))


def test_a_run_says_its_batch_in_words_and_nothing_else_on_stderr(full: Finished) -> None:
    lr = float(full.rows[0]["lr"])
    g = lr * (1293 / 100 - 1)
    assert full.outcome.lines == [f"effective 100 ~ 34 micro x 3 accumulate x 1 device; N 1293; lr {lr:g}; g {g:.4g}; on the CPU"]


def test_steps_csv_has_a_row_per_update(full: Finished) -> None:
    assert (full.folder / "steps.csv").read_text().splitlines()[0] == STEPS
    assert [int(row["step"]) for row in full.rows] == list(range(52))
    seen = 0
    for row in full.rows:
        size, lr = int(row["effective_batch_size"]), float(row["lr"])
        assert int(row["examples_seen"]) == seen
        assert float(row["epoch"]) == seen / 1293
        assert size == (93 if int(row["step"]) % 13 == 12 else 100)
        assert int(row["accumulate_grad_batches"]) == 3
        assert int(row["micro_batch_size"]) == (31 if size == 93 else 34)
        g = lr * (1293 / size - 1)
        assert abs(float(row["g"]) - g) <= 1e-15 * g
        assert math.isfinite(float(row["loss"]))
        seen += size
    assert seen == 4 * 1293
    assert sum(losses_of(full.folder)[-13:]) < 0.2 * sum(losses_of(full.folder)[:13])


def assert_rate(rate: float, examples: int, seconds: float, digits: int) -> None:
    """Assert rate = examples / seconds. `seconds` is rounded to `digits` places, which can matter on a fast machine, and `rate` to one."""
    low, high = (examples / (seconds + sign * 0.5 * 10**-digits) for sign in (1, -1))
    assert low - 0.051 <= rate <= high + 0.051


def test_epochs_csv_has_a_row_per_epoch(full: Finished) -> None:
    rows = read_rows(full.folder / "epochs.csv")
    metrics = {"train/loss", "train/acc", "val/loss", "val/acc"}
    assert set(rows[0]) == {"epoch", "updates", "examples_seen", "seconds", "examples_per_second"} | metrics
    assert [(int(row["epoch"]), int(row["updates"]), int(row["examples_seen"])) for row in rows] == [
        (i, 13 * i, 1293 * i) for i in range(1, 5)
    ]
    for row in rows:
        seconds = float(row["seconds"])
        assert seconds > 0
        assert_rate(float(row["examples_per_second"]), 1293, seconds, digits=4)
        assert all(math.isfinite(float(row[name])) for name in metrics)
    first = full.rows[:13]
    mean = sum(int(row["effective_batch_size"]) * float(row["loss"]) for row in first) / 1293
    assert float(rows[0]["train/loss"]) == pytest.approx(mean, rel=1e-6)


def test_results_json_has_the_final_metrics_and_where_they_come_from(full: Finished) -> None:
    metrics = {"train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc"}
    facts = {"updates", "examples", "seconds", "examples_per_second", "num_examples", "status", "reason", "seed"}
    facts |= {"max_micro_batch_size", "overrides", "choices", "versions", "commit"}
    results = full.results
    assert set(results) == metrics | facts
    assert (results["status"], results["reason"], results["seed"]) == ("completed", "the plan's end", 0)
    assert (results["updates"], results["examples"], results["num_examples"]) == (52, 4 * 1293, 1293)
    assert 0 < results["seconds"] <= full.elapsed + 0.5e-3  # results.json rounds to three places
    assert_rate(results["examples_per_second"], 4 * 1293, results["seconds"], digits=3)
    assert set(results["versions"]) >= {"noisescale", "torch", "pytorch_lightning", "python"}
    assert results["commit"] is None or len(results["commit"]) == 40
    last = read_rows(full.folder / "epochs.csv")[-1]
    assert {name: float(last[name]) for name in ("val/acc", "val/loss", "train/loss", "train/acc")} == {
        name: results[name] for name in ("val/acc", "val/loss", "train/loss", "train/acc")
    }


def composed(folder: Path) -> DictConfig:
    """The config that the run saved, with the folder of the run instead of Hydra's variable for it."""
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert isinstance(cfg, DictConfig)
    cfg.output_dir = str(folder)
    return cfg


def test_the_accuracy_reported_is_that_of_the_weights_kept(full: Finished) -> None:
    cfg = composed(full.folder)
    data = build(cfg, "data")
    data.setup()
    net = network_of(cfg.model, *data.input_shape)
    weights = {
        name.removeprefix("net."): value for name, value in checkpoint_of(full.folder)["state_dict"].items() if name.startswith("net.")
    }
    net.load_state_dict(weights)
    images, labels = next(iter(data.test_dataloader()))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    right = net((images / 255 - mean) / std).argmax(1) == labels
    # One of the 360 examples may be so close to the border between two classes that the order of a sum decides its class.
    assert full.results["test/acc"] == pytest.approx(float(right.double().mean()), abs=1.1 / 360)
    assert full.results["test/acc"] > 0.9  # guessing gives 0.1, and this network reaches 0.97


def test_the_composed_config_and_the_overrides_are_kept(full: Finished) -> None:
    cfg = composed(full.folder)
    assert (cfg.epochs, cfg.batch.size, cfg.optimizer.momentum) == (4, 100, 0.9)
    assert list(OmegaConf.load(full.folder / ".hydra" / "overrides.yaml")) == list(FULL)


def test_checkpoints_are_the_last_epoch_and_the_best(full: Finished) -> None:
    assert sorted(path.name for path in (full.folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert checkpoint_of(full.folder)["global_step"] == 52
    accuracies = [float(row["val/acc"]) for row in read_rows(full.folder / "epochs.csv")]
    best = checkpoint_of(full.folder, "best")["global_step"] // 13 - 1
    assert accuracies[best] == max(accuracies)


def test_tensorboard_shows_it_over_updates_and_over_examples(full: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(full.folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    epoch_metrics = {"train/acc", "val/loss", "val/acc"}
    assert SCALARS | epoch_metrics | {"test/acc", "test/loss"} <= scalars
    assert {f"by_examples/{tag}" for tag in SCALARS | epoch_metrics} <= scalars
    for tag, column in (("lr", "lr"), ("noise/g", "g"), ("train/loss", "loss"), ("batch/effective", "effective_batch_size")):
        for prefix, clock in (("", "step"), ("by_examples/", "examples_seen")):
            logged = [(event.step, event.value) for event in events.Scalars(prefix + tag)]
            steps, values = zip(*logged, strict=True)
            assert list(steps) == [int(row[clock]) for row in full.rows]
            assert values == pytest.approx([float(row[column]) for row in full.rows], rel=1e-6)

    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    titles = ["loss", "accuracy", "learning rate", "batch size B", "noise scale g"]
    assert [[chart.title for chart in category.chart] for category in layout.category] == [titles, titles]
    for prefix, category in zip(("", "by_examples/"), layout.category, strict=True):
        charted = [tag.strip("^$") for chart in category.chart for tag in chart.multiline.tag]
        assert set(charted) <= scalars
        assert {f"{prefix}{tag}" for tag in ("train/loss", "val/acc", "lr", "batch/effective", "noise/g")} <= set(charted)

    hparams = events.PluginTagToContent("hparams")
    started = plugin_data_pb2.HParamsPluginData()
    started.ParseFromString(hparams["_hparams_/session_start_info"])
    given = started.session_start_info.hparams
    assert given["batch/size"].number_value == 100
    assert given["scheduler/option"].string_value == "constant"
    for name in ("test/acc", "val/acc", "train/loss"):
        assert events.Scalars(f"hp/{name}")[-1].value == pytest.approx(full.results[name], rel=1e-6)


def test_a_memory_limit_does_not_change_the_result(full: Finished, tmp_path: Path) -> None:
    free = [choice for choice in FULL if not choice.startswith("max_micro")]
    assert run(*free, "callbacks=light", "logger=csv-only", f"hydra.run.dir={tmp_path}").status == 0
    # Single precision, 1.2e-7: each of 52 updates is rounded, and momentum repeats that for ten updates, so 52 x 10 x 1.2e-7 = 6e-5.
    assert losses_of(tmp_path) == pytest.approx(losses_of(full.folder), rel=1e-4)
    assert {row["accumulate_grad_batches"] for row in read_rows(tmp_path / "steps.csv")} == {"1"}


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

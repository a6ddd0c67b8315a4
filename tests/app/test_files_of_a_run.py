"""What a run of train.py leaves behind."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from noisescale.app.config import build
from noisescale.files import read_rows
from tests.helpers.finished import FULL, Finished
from tests.helpers.front_door import checkpoint_of, losses_of, run
from tests.helpers.models import network_of
from tests.helpers.trainings import ignored

STEPS = "step,epoch,examples_seen,lr,effective_batch_size,micro_batch_size,accumulate_grad_batches,g,loss"
SCALARS = {"train/loss", "lr", "batch/effective", "batch/micro", "batch/accumulate", "noise/g", "noise/g_momentum"}

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


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
    facts |= {"max_micro_batch_size", "overrides", "choices", "versions", "machine", "commit"}
    results = full.results
    assert set(results) == metrics | facts
    assert (results["status"], results["reason"], results["seed"]) == ("completed", "the plan's end", 0)
    assert (results["updates"], results["examples"], results["num_examples"]) == (52, 4 * 1293, 1293)
    assert 0 < results["seconds"] <= full.elapsed + 0.5e-3  # results.json rounds to three places
    assert_rate(results["examples_per_second"], 4 * 1293, results["seconds"], digits=3)
    assert set(results["versions"]) >= {"noisescale", "torch", "pytorch_lightning", "python"}
    assert results["machine"].endswith(("core", "cores"))
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

"""A user's own module, data, network, loss and optimizer at the front doors: what is typed, what is trained, what is answered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from noisescale.app.own_words import words_as_typed, words_for_hydra
from noisescale.callbacks import BatchSizeScheduler
from noisescale.files import read_rows
from noisescale.plans import Fixed
from noisescale.schedules import Cosine
from tests.helpers import own
from tests.helpers.front_door import checkpoint_of, plan, results_of, run, run_dir
from tests.helpers.own_words import HERE, SHORT, refusal, trained, typed
from tests.helpers.processes import python
from tests.helpers.repository import REPOSITORY
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


# -- words --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("scheduler=cosine data.val_fraction=0", "scheduler=cosine data.val_fraction=0"),
        ("model._target_=m.Net model.width=3", "model=own model._target_=m.Net ++model.width=3"),
        ("model.width=3 model._target_=m.Net", "++model.width=3 model=own model._target_=m.Net"),
        ("+model.width=3 ++model._target_=m.Net", "++model.width=3 model=own model._target_=m.Net"),
        ("-m model._target_=m.A,m.B model.width=3,4", "-m model=own model._target_=m.A,m.B ++model.width=3,4"),
        ("optimizer=adam optimizer._target_=m.O optimizer.x=1", "optimizer=adam optimizer._target_=m.O ++optimizer.x=1"),
        ("module._target_=m.M model.widths=[3]", "module=own module._target_=m.M model.widths=[3]"),
        ("task.loss._target_=m.L task.loss.q=0.9", "++task.loss._target_=m.L ++task.loss.q=0.9"),
        ("--config-dir data._target_ ~scheduler", "--config-dir data._target_ ~scheduler"),
        ("scheduler._target_=m.S scheduler.x=1", "scheduler._target_=m.S scheduler.x=1"),
    ],
)
def test_the_keys_of_a_class_need_no_plus(words: str, expected: str) -> None:
    once = words_for_hydra(words.split())
    assert " ".join(once) == expected
    assert words_for_hydra(once) == once
    assert words_for_hydra(words_as_typed(once)) == once


def test_what_a_run_keeps_are_the_words_as_typed_and_the_groups_that_count(tmp_path: Path) -> None:
    words = [*typed(module="Module", data="Data"), "module.width=5", *SHORT, "trainer.max_steps=1"]
    assert run(*words, f"hydra.run.dir={tmp_path}/a").status == 0
    results = results_of(tmp_path / "a")
    assert results["overrides"] == words
    assert not {"task", "model", "optimizer"} & set(results["choices"])
    assert (results["choices"]["module"], results["choices"]["module.width"]) == ("own", 5)
    given = [*typed(module="WithOptimizer", data="Data"), *SHORT, "trainer.max_steps=1", "optimizer=adam", "logger=tensorboard"]
    assert run(*given, f"hydra.run.dir={tmp_path}/b").status == 0
    assert results_of(tmp_path / "b")["choices"]["optimizer"] == "adam"
    logged = OmegaConf.load(tmp_path / "b" / "hparams.yaml")
    assert not {"task", "model", "task/option", "model/option"} & set(logged)
    assert {"module", "optimizer", "optimizer/option"} <= set(logged)


# -- module -------------------------------------------------------------------------------------------------------------------


def test_a_module_of_ones_own_is_trained_as_in_a_plain_trainer(tmp_path: Path) -> None:
    results = trained(tmp_path, *typed(module="Module", data="Data"), "module.width=5", "module.lr=0.05")
    pl.seed_everything(0, verbose=False)
    module = own.Module(width=5, lr=0.05)
    batches = BatchSizeScheduler(Fixed(size=32, last="carry"), Cosine(T_max=2), seed=0)
    options: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=[batches], num_sanity_val_steps=0, **options)
    trainer.fit(module, datamodule=own.Data())
    saved = checkpoint_of(tmp_path)["state_dict"]
    assert set(saved) == set(module.state_dict())
    assert all(torch.equal(saved[name], value) for name, value in module.state_dict().items())
    assert results["val_error"] == pytest.approx(float(trainer.callback_metrics["val_error"]), rel=1e-6)
    assert results["test_error"] == trainer.test(module, datamodule=own.Data(), verbose=False)[0]["test_error"]
    assert (results["updates"], results["num_examples"]) == (7, 100)


def test_a_module_that_takes_the_optimizer_gets_that_of_the_config(tmp_path: Path) -> None:
    trained(tmp_path, *typed(module="WithOptimizer", data="Data"), "optimizer=adam", "optimizer.lr=0.02", "scheduler=constant")
    (group,) = checkpoint_of(tmp_path)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["betas"]) == (0.02, (0.9, 0.999))


def test_a_module_is_resumed_bit_for_bit_and_its_keys_must_stay(tmp_path: Path) -> None:
    """Its hyperparameters, among them a list and the optimizer that it was given, do not prevent that."""
    words = [*typed(module="Module", data="Data"), "scheduler=constant", "module.layers=[1,2]", "threads=1", "logger=csv-only"]
    whole, half, rest = (tmp_path / name for name in ("whole", "half", "rest"))
    for folder, more in ((whole, ["epochs=2"]), (half, ["epochs=1"]), (rest, ["epochs=2", f"ckpt_path={half}/checkpoints/last.ckpt"])):
        outcome = run(*words, *more, run_dir(folder))
        assert outcome.status == 0, outcome.err
    for name, value in checkpoint_of(whole)["state_dict"].items():
        assert torch.equal(checkpoint_of(rest)["state_dict"][name], value)
    line = refusal(*words, "module.lr=0.3", f"ckpt_path={half}/checkpoints/last.ckpt", folder=tmp_path / "other")
    assert line.startswith("module.lr=0.3: ")


def test_a_module_that_was_given_the_optimizer_is_resumed(tmp_path: Path) -> None:
    words = [*typed(module="WithOptimizer", data="Data"), "threads=1"]  # with TensorBoard, which logs hyperparameters
    assert run(*words, "epochs=1", run_dir(tmp_path / "a")).status == 0
    outcome = run(*words, "epochs=2", f"ckpt_path={tmp_path}/a/checkpoints/last.ckpt", run_dir(tmp_path / "b"))
    assert outcome.status == 0, outcome.err
    assert checkpoint_of(tmp_path / "b")["hyper_parameters"] == {"width": 4, "layers": (), "lr": 0.1}


def test_as_little_as_possible_is_asked_of_module_and_data(tmp_path: Path) -> None:
    outcome = run(*typed(module="OnlyTraining", data="OnlyTrain"), *SHORT, run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    assert "note: no test: OnlyTraining has no test_step and OnlyTrain has no test_dataloader" in outcome.lines
    results = results_of(tmp_path)
    assert (results["status"], results["updates"], results["num_examples"]) == ("completed", 4, 64)
    assert not [name for name in results if name.startswith(("val", "test"))]


def test_a_loader_that_is_none_is_no_validation(tmp_path: Path) -> None:
    results = trained(tmp_path, *typed(module="Module", data="NoneToValidate"))
    assert "test_error" in results
    assert "val_error" not in results


def test_a_module_keeps_its_own_scheduler_without_one_of_the_plan(tmp_path: Path) -> None:
    words = typed(module="WithScheduler", data="Data")
    line = refusal(*words, folder=tmp_path / "both")
    assert line == "lr_scheduler=StepLR: the plan sets the learning rate; choose scheduler=none, or remove the module's scheduler"
    note = "note: scheduler=none leaves the learning rate to the module's own scheduler; the plan takes it as constant"
    outcome = run(*words, *SHORT, "scheduler=none", "epochs=2", run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    assert note in outcome.lines
    rates = [float(row["lr"]) for row in read_rows(tmp_path / "steps.csv")]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 3)
    outcome = plan(*words, "scheduler=none", "epochs=2", run_dir(tmp_path / "plan"))
    assert note in outcome.lines
    assert {row["lr"] for row in read_rows(tmp_path / "plan" / "plan.csv")} == {"1.0"}


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer")
@pytest.mark.parametrize(("name", "given"), [("TwoOptimizers", "several"), ("ReturnsNoOptimizer", "nothing")])
def test_a_module_must_make_exactly_one_optimizer(name: str, given: str, tmp_path: Path) -> None:
    line = refusal(*typed(module=name, data="Data"), folder=tmp_path)
    words = "a plan steps exactly one optimizer; return one; its parameter groups may have learning rates of their own"
    assert line == f"configure_optimizers={given}: {words}"


def test_the_best_checkpoint_goes_by_a_metric_of_the_module(tmp_path: Path) -> None:
    words = typed(module="Module", data="Data")
    outcome = run(*words, *SHORT, run_dir(tmp_path / "a"))
    remedy = "set callbacks.best.monitor=... and callbacks.best.mode=min or max"
    assert f"note: no best checkpoint: the module's metric is not known; {remedy}\n" in outcome.err
    trained(tmp_path / "b", *words, "callbacks.best.monitor=val_error", "callbacks.best.mode=min")
    assert [(tmp_path / run / "checkpoints" / "best.ckpt").exists() for run in "ab"] == [False, True]


@pytest.mark.filterwarnings("ignore:.* the noise of Adam where .*")
def test_the_rule_of_a_modules_own_optimizer_is_followed(tmp_path: Path) -> None:
    """OnlyTraining makes Adam: at the first update that is not the first of an epoch, B is that of the rule sgd, Adam's."""
    words = [*typed(module="OnlyTraining", data="OnlyTrain"), "batch=dual", "batch.size=8", "batch.max_size=64", "epochs=4"]
    sizes = {}
    for rule in ("null", "adaptive", "sgd"):
        outcome = run(*words, f"batch.rule={rule}", "threads=1", "logger=csv-only", run_dir(tmp_path / rule))
        assert outcome.status == 0, outcome.err
        sizes[rule] = (tmp_path / rule / "steps.csv").read_text().splitlines()
    assert [line.split(",")[4] for line in sizes["null"]] == [line.split(",")[4] for line in sizes["sgd"]]
    assert sizes["null"] != sizes["adaptive"]
    assert "note: batch.rule follows the optimizer" in run(*words, "trainer.max_steps=1", run_dir(tmp_path / "note")).err


# -- network, loss, task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Net", "ForDigits", "a_net"])
def test_a_network_of_ones_own(name: str, tmp_path: Path) -> None:
    trained(tmp_path, *typed(model=name), "model.width=6", "data.subset_size=200")
    assert checkpoint_of(tmp_path)["state_dict"]["net.net.1.weight"].shape == (6, 64)


@pytest.mark.slow
def test_a_loss_of_ones_own_by_name_and_with_arguments(tmp_path: Path) -> None:
    by_name = trained(tmp_path / "a", "data=diabetes", f"task.loss={HERE}.absolute")
    ours = trained(tmp_path / "b", "data=diabetes", "task.loss=l1")
    assert by_name["val/loss"] == ours["val/loss"]
    median = trained(tmp_path / "c", "data=diabetes", f"task.loss._target_={HERE}.Quantile", "task.loss.q=0.5")
    high = trained(tmp_path / "d", "data=diabetes", f"task.loss._target_={HERE}.Quantile", "task.loss.q=0.9")
    assert median["train/loss"] != high["train/loss"]


def test_a_task_of_ones_own_gets_network_and_optimizer(tmp_path: Path) -> None:
    results = trained(tmp_path, "task._target_=noisescale.models.Regressor", "task.loss=l1", "data=diabetes", "optimizer.lr=0.01")
    assert "test/rmse" in results


# -- modules that cannot be imported -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("import missing_library\n", "importing {name} failed: No module named 'missing_library'"),
        ("def f(:\n", "importing {name} failed: SyntaxError: invalid syntax ({name}.py, line 1); full_error=true shows where"),
        ("1 / 0\n", "importing {name} failed: ZeroDivisionError: division by zero; full_error=true shows where"),
        ("class Modul:\n    pass\n", "{name} has no Module; did you mean {name}.Modul?"),
        ("Module = 3\n", "is not a LightningModule"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_reason(
    content: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"written_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    assert refusal(f"module._target_={name}.Module", folder=tmp_path / "run") == f"module._target_={name}.Module: {line.format(name=name)}"
    sys.modules.pop(name, None)


@pytest.mark.slow
def test_from_any_folder_in_a_process_of_its_own_and_on_two_devices(tmp_path: Path) -> None:
    """The second process of `ddp_cpu` finds the classes, too, although it is started from the composed config."""
    (tmp_path / "mine" / "module").mkdir(parents=True)
    (tmp_path / "mine" / "my_classes.py").write_text(Path(own.__file__).read_text())
    (tmp_path / "mine" / "module" / "small.yaml").write_text("_target_: my_classes.Module\nwidth: 3\n")
    words = ["--config-dir", "mine", "module=small", "data._target_=my_classes.Data", "trainer=ddp_cpu", *SHORT]
    done = python(str(REPOSITORY / "train.py"), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("outputs/train/*/results.json")
    assert json.loads(results.read_text())["updates"] == 7


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("words", "noted"),
    [
        (typed(module="Module"), True),
        ([*typed(module="Module"), "data.val_fraction=0"], True),
        ([*typed(module="Module"), "data=digits"], False),
        (typed(module="Module", data="Data"), False),
        ([], False),
    ],
)
def test_a_module_without_data_of_its_own_is_told_what_it_trains_on(words: list[str], noted: bool, tmp_path: Path) -> None:
    """Without the line, a step for other batches ends in a trace that says nothing about the data."""
    outcome = plan(*words, run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    assert ("note: data=digits is used; set data._target_ for data of your own\n" in outcome.out + outcome.err) == noted

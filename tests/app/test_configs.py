"""conf/: every option of every group composes, has all of its keys, and builds what it promises."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import initialize_config_dir

from noisescale.app.checks import min_micro_batch_size as min_micro_batch_size_of_config
from noisescale.app.config import build
from noisescale.app.listing import CLAIMS
from noisescale.app.module import MONITORED
from noisescale.data import DiabetesData, ImageDataModule
from noisescale.execution.batch_norm import min_micro_batch_size
from noisescale.models import Classifier
from noisescale.models.optimizers import OptimizerFactory
from noisescale.plans.duality import resolve_rule
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.schedules import Schedule, Warmup
from tests.helpers.composing import composed, options
from tests.helpers.models import network_of
from tests.helpers.repository import CONF

N = 1293
"""Number of training examples of the default data set."""

PROMISED = {
    "scheduler": "constant step multistep inverse exponential polynomial linear cosine cosine_restarts cyclic onecycle wsd plateau none",
    "warmup": "none linear constant",
    "optimizer": "sgd momentum nesterov adagrad rmsprop rmsprop_nesterov adadelta adam adamw own",
    "batch": "small large full accumulate multistep linear dual hybrid split seesaw cyclic gns plateau",
    "task": "classification regression own",
    "data": "digits mnist fashion_mnist cifar10 cifar100 imagefolder diabetes own",
    "model": "logistic mlp cnn resnet9 resnet18 wrn vgg11 own",
    "module": "none own",
    "trainer": "auto cpu gpu ddp ddp_cpu",
    "callbacks": "light full none gns sharpness",
    "early_stopping": "none val_acc val_loss",
    "averaging": "none ema",
    "logger": "tensorboard csv wandb mlflow other csv-only",
    "branches": "default",
    "recommend": "default",
    "range_test": "default",
    "debug": "fast overfit",
    "experiment": "step_gamma065 alexnet_multistep exponential_098 cosine_tmax150 constant_too_small constant_good constant_too_large "
    "smith2017/decay smith2017/hybrid smith2017/increase smith2017/increase_lr smith2017/increase_momentum smith2017_imagenet/decay "
    "smith2017_imagenet/increase smith2017_imagenet/increase_momentum95 smith2017_imagenet/increase_momentum975 jastrzebski/cbs "
    "jastrzebski/clr goyal2017 seesaw cyclic_pair/lr cyclic_pair/batch cifar10_fast cifar10_fast_cpu",
}


def classes(group: str) -> list[str]:
    """The options of a group that name a class; `own` leaves that to the user."""
    return [option for option in options(group) if option not in ("own", "none")]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize("group", PROMISED)
def test_every_promised_option_is_there(group: str) -> None:
    assert set(PROMISED[group].split()) <= set(options(group))


def test_there_is_no_group_besides() -> None:
    """Besides the groups there is one folder, of reproduce.py."""
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir()} == {*PROMISED, CLAIMS}


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_every_file_says_first_what_it_is(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package ")]
    assert re.match(r"# \S.{10,}", lines[0])
    assert file.suffix == ".yaml"


@pytest.mark.parametrize("file", sorted(file for file in CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_no_reference_computes_anything(file: Path) -> None:
    """`${...}` only copies a value; derived numbers are computed in Python."""
    for reference in re.findall(r"\$\{([^}]*)\}", file.read_text()):
        assert re.fullmatch(r"[\w.]+|hydra:[\w.]+|oc.select:[\w.]+,null|now:[%\w-]+|oc.env:\w+,[\w./:]+", reference)


def test_the_defaults_are_a_run() -> None:
    cfg = composed()
    schedule, strategy = build(cfg, "scheduler").with_horizon(cfg.epochs), build(cfg, "batch")
    assert Plan(schedule, strategy, N, cfg.epochs).total_updates() > 0
    assert cfg.trainer.max_epochs == cfg.epochs
    assert cfg.ckpt_path is None
    assert cfg.full_error is False


@pytest.mark.parametrize("name", options("scheduler"))
def test_schedulers(name: str) -> None:
    cfg = composed(f"scheduler={name}")
    schedule = build(cfg, "scheduler")
    assert isinstance(schedule, Schedule)
    factors = [schedule.with_horizon(cfg.epochs)(epoch / 4) for epoch in range(4 * cfg.epochs)]
    assert max(factors) == pytest.approx(1, rel=0.01)
    assert min(factors) >= 0
    assert (len(set(factors)) == 1) == (name in ("constant", "none", "plateau"))  # nothing has been measured


def test_a_schedulers_rate_is_the_optimizers() -> None:
    for name in options("scheduler"):
        scheduler = composed(f"scheduler={name}", "optimizer.lr=0.123").scheduler
        assert scheduler.get("lr", 0.123) == scheduler.get("max_lr", 0.123) == 0.123


@pytest.mark.parametrize("name", options("warmup"))
def test_warmups(name: str) -> None:
    warmup = build(composed(f"warmup={name}"), "warmup")
    assert isinstance(warmup, Warmup)
    assert (warmup.epochs == 0) == (name == "none")
    assert warmup(warmup.epochs) == 1


@pytest.mark.parametrize("name", options("batch"))
def test_batch_strategies(name: str) -> None:
    cfg = composed(f"batch={name}")
    strategy = resolve_rule(build(cfg, "batch"), "SGD")
    assert isinstance(strategy, BatchStrategy)
    plan = Plan(build(cfg, "scheduler").with_horizon(cfg.epochs), strategy, N, cfg.epochs)
    updates = list(plan)
    sizes = [update.effective_batch_size for update in updates]
    assert cfg.epochs * N <= sum(sizes) < cfg.epochs * N + sizes[-1]
    match name:
        case "full":
            assert set(sizes) == {N}
        case "gns" | "plateau":  # nothing has been measured
            assert set(sizes) == {cfg.batch.size}
        case "small":
            assert max(sizes) == cfg.batch.size <= 64
        case "large" | "accumulate":
            assert max(sizes) == cfg.batch.size >= 256
        case "cyclic":
            assert min(update.planned_batch_size for update in updates) == cfg.batch.size < sizes[0] / 4
        case _:
            assert sizes[0] == cfg.batch.size < max(sizes)
    assert (updates[0].accumulate_grad_batches > 1) == (name == "accumulate")


@pytest.mark.parametrize("name", classes("optimizer"))
def test_optimizers(name: str) -> None:
    cfg = composed(f"optimizer={name}")
    factory = OptimizerFactory.from_config(build(cfg, "optimizer"))
    optimizer = factory(torch.nn.Linear(3, 2))
    assert len(optimizer.param_groups) == 1
    for key in ("lr", "weight_decay", "momentum", "alpha", "nesterov"):
        if key in cfg.optimizer:
            assert optimizer.param_groups[0][key] == cfg.optimizer[key]
    assert cfg.optimizer.decay_biases_and_norms is True


@pytest.mark.parametrize("name", classes("data"))
def test_data(name: str) -> None:
    """The data are built but not read, so nothing is downloaded."""
    more = ["data.root=pictures"] if name == "imagefolder" else []
    cfg = composed(f"data={name}", *more, "seed=5")
    data = build(cfg, "data")
    assert isinstance(data, ImageDataModule | DiabetesData)
    assert (data.seed, data.subset_size) == (5, None)
    if isinstance(data, ImageDataModule):
        assert (data.augment, data.num_workers) == ("none", None)
    task = "classification" if data.targets == "classes" else "regression"
    assert cfg.task == composed(f"task={task}").task


def test_a_task_that_is_typed_wins_over_that_of_the_data() -> None:
    assert composed("data=diabetes", "task=classification").task._target_.endswith("Classifier")
    assert composed("task=classification", "data=diabetes").task._target_.endswith("Classifier")
    assert composed("data=diabetes").task._target_.endswith("Regressor")


@pytest.mark.parametrize("name", classes("task"))
def test_tasks(name: str) -> None:
    cfg = composed(f"task={name}")
    keys = {key: value for key, value in cfg.task.items() if key not in ("_target_", *MONITORED)}
    task = pkgutil.resolve_name(cfg.task._target_)
    defaults = inspect.signature(task).parameters
    assert keys == {key: defaults[key].default for key in keys}
    assert cfg.task.monitor == f"val/{task.METRIC}"
    assert cfg.callbacks.best.monitor == cfg.task.monitor


@pytest.mark.parametrize("group", ["task", "data", "model", "module", "optimizer"])
def test_an_option_for_a_class_of_the_users_own_names_none(group: str) -> None:
    assert composed(f"{group}=own")[group]._target_ is None


@pytest.mark.parametrize("name", classes("model"))
def test_models(name: str) -> None:
    small = {"resnet9": ["model.width=4"], "resnet18": ["model.width=8"], "wrn": ["model.width=1"]}
    cfg = composed(f"model={name}", *small.get(name, []))
    net = network_of(cfg.model, 3, 32, 32, outputs=7).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.cases(4)
@pytest.mark.parametrize("name", classes("model"))
def test_that_a_model_has_batch_norm_is_known_from_its_config(name: str) -> None:
    """plan.py has only the config, and training has the network; both must refuse the same single examples."""
    small = {"resnet9": ["model.width=4"], "resnet18": ["model.width=8"], "wrn": ["model.width=1"]}
    for norm in ("none", "batch"):
        cfg = composed(f"model={name}", *small.get(name, []), *([f"model.norm={norm}"] if name in ("mlp", "cnn", "vgg11") else []))
        net = network_of(cfg.model, 3, 32, 32, outputs=7)
        assert min_micro_batch_size_of_config(cfg) == min_micro_batch_size(net, 1)


@pytest.mark.parametrize("name", options("trainer"))
def test_trainers(name: str) -> None:
    cfg = composed(f"trainer={name}")
    known = inspect.signature(pl.Trainer.__init__).parameters
    assert {key for key in cfg.trainer if not key.startswith("_")} <= set(known)
    assert cfg.trainer.max_epochs == cfg.epochs
    assert cfg.trainer.accelerator == ("auto" if name == "auto" else "gpu" if name in ("gpu", "ddp") else "cpu")
    assert cfg.trainer.devices == (2 if "ddp" in name else 1)
    if cfg.trainer.devices == 1 and cfg.trainer.accelerator == "cpu":
        assert build(cfg, "trainer", logger=False, enable_checkpointing=False).max_epochs == cfg.epochs


@pytest.mark.parametrize("name", options("callbacks"))
def test_callbacks(name: str) -> None:
    cfg = composed(f"callbacks={name}")
    callbacks = {key: build(cfg, f"callbacks.{key}") for key in cfg.callbacks}
    assert all(isinstance(callback, pl.Callback) for callback in callbacks.values())
    light = {"noise_scale", "epochs", "divergence"}
    full = light | {"last", "best", "progress_bar"}
    added = {"gns": {"gradient_noise"}, "sharpness": {"sharpness"}}
    assert set(callbacks) == {"none": set(), "light": light, "full": full, **added}[name]


@pytest.mark.parametrize("name", options("early_stopping"))
def test_early_stopping_is_beside_the_callbacks(name: str) -> None:
    cfg = composed(f"early_stopping={name}")
    assert cfg.callbacks == composed().callbacks
    if name != "none":
        stopping = build(cfg, "early_stopping")
        assert isinstance(stopping, pl.callbacks.EarlyStopping)
        assert (stopping.monitor, stopping.mode) == {"val_acc": ("val/acc", "max"), "val_loss": ("val/loss", "min")}[name]
        assert stopping.monitor in Classifier.metric_names


@pytest.mark.parametrize("name", options("averaging"))
def test_averaging_is_beside_the_callbacks(name: str) -> None:
    cfg = composed(f"averaging={name}")
    assert cfg.callbacks == composed().callbacks
    assert (not cfg.averaging) == (name == "none")


@pytest.mark.parametrize("name", options("logger"))
def test_loggers_have_a_key_of_their_own_so_that_several_go_together(name: str) -> None:
    """`other`, whose class is the user's, has its keys in the group itself."""
    if name == "other":
        assert composed("logger=other", "logger._target_=some.Logger", "+logger.key=1").logger == {"_target_": "some.Logger", "key": 1}
        return
    cfg = composed(f"logger=[tensorboard,{name}]")
    assert set(cfg.logger) == {"tensorboard", name} - {"csv-only"}
    assert composed(f"logger={name}").logger.get(name) == cfg.logger.get(name)


@pytest.mark.parametrize("name", options("debug"))
def test_debug_options_change_what_they_say(name: str) -> None:
    cfg, plain = composed(f"debug={name}"), composed()
    assert cfg.epochs != plain.epochs
    assert cfg.data.subset_size is not None
    strategy: Any = build(cfg, "batch")
    subset = cfg.data.subset_size - round(cfg.data.val_fraction * cfg.data.subset_size)
    assert Plan(build(cfg, "scheduler").with_horizon(cfg.epochs), strategy, subset, cfg.epochs).total_updates() <= 500


@pytest.mark.slow
def test_every_option_goes_with_every_other_group() -> None:
    """Each option composes with the last option of every other group, so none refers to a key that only the default options have."""
    groups = [group for group in PROMISED if group not in ("debug", "experiment")]
    others = {group: options(group)[-1] for group in groups}
    for group in groups:
        for name in options(group):
            more = ["logger._target_=some.Logger"] if name == "other" else []
            composed(*(f"{other}={option}" for other, option in {**others, group: name}.items()), *more)

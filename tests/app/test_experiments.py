"""The experiments of conf/: what their headers state is what their plans do."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from noisescale.app.composed import num_examples, read_config
from noisescale.plans.plan import Cursor, Plan, Update
from tests.helpers.composing import composed, options
from tests.helpers.repository import CONF


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def _experiment(name: str) -> DictConfig:
    paths = ["output_dir=somewhere", "hydra.runtime.output_dir=somewhere"]
    return compose("config", [f"experiment={name}", *paths], return_hydra_config=True)


def planned(monkeypatch: pytest.MonkeyPatch, experiment: str, *overrides: str) -> Plan:
    """The plan that plan.py shows for an experiment."""
    cfg = OmegaConf.merge(_experiment(experiment), OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(cfg, DictConfig)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    return read_config(cfg).plan(num_examples(cfg))


def header_of(name: str) -> str:
    """The first comment of an experiment file, as one line."""
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().partition("\ndefaults:")[0].splitlines()
    assert lines[0] == "# @package _global_"
    return " ".join(line.removeprefix("# ") for line in lines[1:])


def number(text: str) -> int:
    return int(text.replace(" ", ""))


@pytest.mark.cases(5)
@pytest.mark.parametrize("name", options("experiment"))
def test_experiments(name: str) -> None:
    """The header states command, result and run time; later words of the command line override one choice and keep the others."""
    header, cfg = header_of(name), composed(f"experiment={name}")
    command = "plan" if cfg.data.size is not None else "train"
    assert f"\n#   python {command}.py experiment={name}\n" in (CONF / "experiment" / f"{name}.yaml").read_text()
    if cfg.data._target_.endswith("DigitsData"):
        assert re.search(r"Measured on \w+, .*seeds? 0", header)
        assert re.search(r"test/acc \d|all five diverged", header)
        assert re.search(r"\d s on one CPU core|less than a second", header)
    elif name == "cifar10_fast_cpu":
        assert re.search(r"Measured on .*, seed 0: test/acc 0\.\d{4}, [\d ]+ updates, \d+ s of training on 2 CPU cores", header)
    elif name == "cifar10_fast":
        assert "NOT run on a GPU" in header
    else:
        assert re.search(r"arXiv:\d{4}\.\d{5}", header)
        assert re.search(r"Paper \((secondary sources that quote it|its text|its abstract)\)", header)
        assert re.search(r"\d\d(\.\d+)? (\+- [\d.]+ )?%", header)
        if command == "plan":
            assert "Planner only" in header
        else:
            assert re.search(r"about \d\.\d days on one CPU core \(measured: \d\.\d s per update of 128[;,]", header)
            assert "NOT run in full here" in header
    later = composed(f"experiment={name}", "optimizer.lr=0.007", "data=imagefolder", "data.root=pictures")
    assert later.optimizer.lr == 0.007
    assert (later.data.root, later.data.val_fraction, later.data.augment) == ("pictures", cfg.data.val_fraction, cfg.data.augment)


@pytest.mark.cases(5)
@pytest.mark.parametrize("name", options("experiment"))
def test_the_updates_that_an_experiment_states_are_those_of_its_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    header = header_of(name)
    if name == "constant_diverges":
        return
    total = planned(monkeypatch, name).total_updates()
    measured = re.search(r"Measured .*?(\d[\d ]*) updates", header)
    assert measured is None or number(measured[1]) == total
    if "Plan: " not in header:
        assert measured is not None
        return
    stated = header.partition("Plan: ")[2]
    assert number(stated.partition(" updates")[0]) == total
    others = re.findall(r"; (\d[\d ]*) with ((?:[\w.]+=\w+ ?)+)", stated)
    assert "batch.last=drop" in [overrides for _, overrides in others]
    for updates, overrides in others:
        assert number(updates) == planned(monkeypatch, name, *overrides.split()).total_updates()


def at(plan: Plan, epoch: float) -> Update:
    """The update that starts at the time `epoch`."""
    return plan.update_at(Cursor(position=round(epoch * plan.num_examples)))


def test_the_arms_of_smith_2017_are_duals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch sizes are those of the paper, and in every phase lr/(B (1 - m)) is that of the first arm."""
    sizes = {
        "decay": [128, 128, 128, 128],
        "hybrid": [128, 640, 640, 640],
        "increase": [128, 640, 3200, 5120],
        "increase_lr": [640, 3200, 5120, 5120],
        "increase_momentum": [3200, 5120, 5120, 5120],
    }
    assert {f"smith2017/{name}" for name in sizes} == {name for name in options("experiment") if name.startswith("smith2017/")}
    for name, expected in sizes.items():
        optimizer = _experiment(f"smith2017/{name}").optimizer
        plan = planned(monkeypatch, f"smith2017/{name}")
        updates = [at(plan, epoch) for epoch in (0, 60, 120, 160)]
        assert plan.num_examples == 50_000
        assert [update.effective_batch_size for update in updates] == expected
        for update, cuts in zip(updates, range(4), strict=True):
            drift = optimizer.lr * update.lr_factor / (update.effective_batch_size * (1 - optimizer.momentum))
            assert drift == pytest.approx(0.1 / 128 / 0.1 / 5**cuts)
            assert plan.micro_batch_size(update) % 128 == 0


def test_the_arms_of_smith_2017_on_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"decay": (8192, 0.3), "increase": (65536, 2.4), "increase_momentum95": (65536, 1.2), "increase_momentum975": (65536, 0.6)}
    assert {f"smith2017_imagenet/{name}" for name in rates} == {name for name in options("experiment") if "_imagenet/" in name}
    for name, (size, rate) in rates.items():
        optimizer = _experiment(f"smith2017_imagenet/{name}").optimizer
        plan = planned(monkeypatch, f"smith2017_imagenet/{name}")
        first, cut = at(plan, 0), at(plan, 30)
        assert (optimizer.lr, first.lr_factor) == (3.0, 1.0)
        assert first.effective_batch_size * (1 - optimizer.momentum) == pytest.approx(819.2)
        assert (cut.effective_batch_size, optimizer.lr * cut.lr_factor) == (size, pytest.approx(rate))


def test_the_pairs_carry_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of cyclic_pair have the same g, and both of jastrzebski the same lr/B, at every epoch."""
    rate, batch = planned(monkeypatch, "cyclic_pair/lr"), planned(monkeypatch, "cyclic_pair/batch")
    for update in batch:
        g = 0.1 * rate.schedule(update.epoch) * (1293 / 32 - 1)
        assert batch.noise(update, 0.1) == pytest.approx(g)
    clr, cbs = planned(monkeypatch, "jastrzebski/clr"), planned(monkeypatch, "jastrzebski/cbs")
    assert clr.num_examples == cbs.num_examples == 45_000
    for epoch in (0, 4.9, 5, 9.9, 10, 154.5, 156, 299):
        a, b = at(clr, epoch), at(cbs, epoch)
        assert b.lr_factor == 1
        assert a.lr_factor / a.effective_batch_size == pytest.approx(b.lr_factor / b.effective_batch_size)


def test_goyals_rate_and_seesaws_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(monkeypatch, "goyal2017")
    rates = [0.1 * at(plan, epoch).lr_factor for epoch in (0, 5, 30, 60, 80)]
    assert rates == pytest.approx([0.1, 3.2, 0.32, 0.032, 0.0032])
    seesaw, cosine = (planned(monkeypatch, "seesaw", f"batch.growth={growth}").total_updates() for growth in (0.5, 0))
    assert seesaw / cosine == pytest.approx(2 / math.pi, rel=0.01)


def test_the_lecture_notes_numbers() -> None:
    step = composed("experiment=step_gamma065").scheduler
    assert (step._target_, step.gamma) == ("noisescale.schedules.Step", 0.65)
    alexnet = composed("experiment=alexnet_multistep")
    assert (alexnet.optimizer.lr, alexnet.scheduler.gamma, list(alexnet.scheduler.milestones)) == (0.05, 0.1, [10, 15, 25, 30])
    exponential = composed("experiment=exponential_098").scheduler
    assert (exponential._target_, exponential.gamma) == ("noisescale.schedules.Exponential", 0.98)
    cosine = composed("experiment=cosine_tmax150").scheduler
    assert (cosine._target_, cosine.T_max) == ("noisescale.schedules.Cosine", 150)
    rates = [composed(f"experiment=constant_{name}").optimizer.lr for name in ("too_small", "good", "too_large", "diverges")]
    assert rates == sorted(rates)

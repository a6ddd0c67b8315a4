"""The table of every schedule with every dual, as conf/ has them: each update has the noise that the schedule sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir

from noisescale.app.config import build
from noisescale.plans.duality import Matched, resolve_rule
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.schedules import Schedule
from tests.helpers.duality import TIGHT, off, wave_at, whole
from tests.helpers.repository import CONF

SCHEDULERS = sorted({file.stem for file in (CONF / "scheduler").glob("[!_]*.yaml")} - {"none", "plateau"})
"""None is not for a dual, and a plateau has no curve before the training."""
DUALS = ("dual", "hybrid", "split", "seesaw", "cyclic")


class Options(NamedTuple):
    schedules: dict[str, Schedule]
    strategies: dict[str, BatchStrategy]


@pytest.fixture(scope="module")
def options() -> Iterator[Options]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = {name: build(compose("config", ["output_dir=somewhere", f"scheduler={name}"]), "scheduler") for name in SCHEDULERS}
        batches = {name: build(compose("config", ["output_dir=somewhere", f"batch={name}"]), "batch") for name in DUALS}
        yield Options(made, {name: resolve_rule(strategy, "SGD") for name, strategy in batches.items()})


@pytest.mark.parametrize("batch", DUALS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_schedule_has_its_noise_in_every_dual(scheduler: str, batch: str, options: Options) -> None:
    n, epochs, lr = 1293, 20, 0.05
    schedule, strategy = options.schedules[scheduler].with_horizon(epochs), options.strategies[batch]
    assert isinstance(strategy, Matched)
    plan = Plan(schedule, strategy, n, epochs)
    full = [update for update in plan if whole(update) or strategy.match_last]
    assert len(full) > 60
    for update in full:
        size, level = update.effective_batch_size, schedule(update.epoch) * wave_at(strategy, update.epoch)
        if batch == "seesaw":
            assert off(update.lr_factor / math.sqrt(size), level / math.sqrt(32)) <= TIGHT
        else:
            assert off(plan.noise(update, lr), level * lr * (n - 32) / 32) <= TIGHT
    largest = max(update.effective_batch_size for update in full)
    assert (largest > 32) == (scheduler != "constant" or batch == "cyclic")
    assert largest == 129 or batch != "dual" or scheduler == "constant"

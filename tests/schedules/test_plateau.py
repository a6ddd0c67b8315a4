"""Plateau is torch's ReduceLROnPlateau, as a function of the clock and of what was measured."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.schedules import Plateau, Schedule, Warmup

values = st.lists(st.floats(0.0, 4.0) | st.just(math.nan), max_size=25)
rules = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.sampled_from([0.1, 0.5]),
        "patience": st.integers(0, 3),
        "threshold": st.sampled_from([0.0, 1e-4, 0.3]),
        "cooldown": st.integers(0, 3),
    }
)


def after(schedule: Schedule, readings: list[float]) -> Schedule:
    for epoch, value in enumerate(readings, 1):
        schedule = schedule.observed(epoch, {"val/loss": value, "val/acc": 0.0})
    return schedule


@settings(max_examples=30)
@given(values, rules, st.sampled_from([0.0, 0.05]))
def test_it_is_torchs_scheduler(readings: list[float], rule: dict[str, Any], lowest: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(()))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **rule, min_lr=lowest, eps=0.0)
    ours = after(Plateau(**rule, min_factor=lowest), readings)
    assert ours(0) == 1
    for epoch, value in enumerate(readings, 1):
        scheduler.step(value)
        for time in (float(epoch), epoch + 0.7):
            assert ours(time) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@settings(max_examples=30)
@given(values, rules)
def test_a_reading_changes_nothing_before_it(readings: list[float], rule: dict[str, Any]) -> None:
    whole = after(Plateau(**rule), readings)
    for done in range(len(readings)):
        known = after(Plateau(**rule), readings[:done])
        assert [known(t / 2) for t in range(2 * done + 2)] == [whole(t / 2) for t in range(2 * done + 2)]


@given(values, rules)
def test_it_is_constant_as_long_as_it_says(readings: list[float], rule: dict[str, Any]) -> None:
    schedule = after(Plateau(**rule), readings)
    for t in range(2 * len(readings) + 2):
        until = min(schedule.constant_until(t / 2), 30)
        assert {schedule(t / 2 + (until - t / 2) * share) for share in (0.0, 0.5, 0.999)} == {schedule(t / 2)}


def test_behind_a_warm_up() -> None:
    readings = [2.0, 1.0, 1.0, 1.0]
    for mode in ("overlap", "shift"):
        schedule = after(Warmup(1.5, 0.1, mode=mode).before(Plateau(patience=1), 9), readings)
        assert schedule.monitors == {"val/loss"}
        assert [schedule.parts(epoch)[1] for epoch in (3.9, 4.0, 8.0)] == [1, 0.1, 0.1]
        assert schedule.parts(0.0) == (0.1, 1)


def test_other_metrics_and_other_schedules_do_not_listen() -> None:
    schedule = Plateau(patience=0)
    assert schedule.observed(1, {"val/acc": 1.0}) is schedule
    assert Warmup(0).before(schedule, 3) is schedule


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"factor": 1.0}, "factor=1.0: must be a finite number in (0, 1)"),
        ({"mode": "low"}, "mode=low: must be one of min, max"),
        ({"patience": -1}, "patience=-1: must be a whole number of readings, at least 0"),
        ({"threshold": 1}, "threshold=1: must be a finite number in [0, 1)"),
        ({"cooldown": 0.5}, "cooldown=0.5: must be a whole number of readings, at least 0"),
        ({"min_factor": 2}, "min_factor=2: must be a finite number in [0, 1]"),
        ({"monitor": ""}, "monitor=: must be the name of a metric; for example val/loss"),
    ],
)
def test_refusals(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        Plateau(**options)

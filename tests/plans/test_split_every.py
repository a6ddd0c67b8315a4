"""Every n-th update of a plan is cut in two, and nothing else changes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import Fixed, Linear
from noisescale.plans.summary import summarize, write_plan
from noisescale.schedules import Constant, Cosine
from tests.helpers.plans import plans


@settings(max_examples=60)
@given(plan=plans(limited=True), every=st.integers(1, 7))
def test_only_the_cut_of_every_nth_update_changes(plan: Plan, every: int) -> None:
    split, micro_batches = replace(plan, split_every=every), 0
    for before, after in zip(plan, split, strict=True):
        assert replace(after, accumulate_grad_batches=before.accumulate_grad_batches) == before
        turn = (before.start.step + 1) % every == 0
        single = before.accumulate_grad_batches * plan.world_size == 1
        if turn and single and before.effective_batch_size > 1:
            (first, n), (second, m) = split.pieces(after, 0)
            assert (first, second) == (before.start.position, before.start.position + n)
            assert n + m == before.effective_batch_size
            assert 0 <= n - m <= 1
        else:
            assert after == before
        assert split.update_at(after.start) == after
        micro_batches += after.accumulate_grad_batches
    assert sum(map(split.micro_batches_in, split.stretches())) == micro_batches


def test_two_devices_have_the_pieces_that_one_device_has_one_after_the_other() -> None:
    one = Plan(Constant(), Fixed(9), 100, 2, split_every=1)
    two = replace(one, world_size=2)
    for alone, shared in zip(one, two, strict=True):
        both = [*two.pieces(shared, 0), *two.pieces(shared, 1)]
        assert one.pieces(alone, 0) == [piece for piece in both if piece[1]]


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        ({}, [5, 4]),
        ({"min_micro_batch_size": 5}, [9]),
        ({"min_micro_batch_size": 4}, [5, 4]),
        ({"micro_batch_multiple": 8, "min_micro_batch_size": 1}, [8, 1]),
        ({"micro_batch_multiple": 8, "min_micro_batch_size": 2}, [7, 2]),
        ({"micro_batch_multiple": 9, "min_micro_batch_size": 2}, [9]),
        ({"max_micro_batch_size": 3}, [3, 3, 3]),
    ],
)
def test_a_cut_leaves_ghost_batches_and_batch_norm_what_they_need(options: dict[str, Any], pieces: list[int]) -> None:
    plan = Plan(Constant(), Fixed(9), 99, 1, **options, split_every=1)
    assert {tuple(size for _, size in plan.pieces(update, 0)) for update in plan} == {tuple(pieces)}


def test_plan_csv_has_the_cut_of_each_update(tmp_path: Path) -> None:
    plan = Plan(Cosine(2), Linear(8, 20, 1), 103, 2, split_every=3)
    write_plan(summarize(plan, 0.1), tmp_path / "plan.csv")
    with (tmp_path / "plan.csv").open() as file:
        rows = [(int(row["accumulate_grad_batches"]), int(row["micro_batch_size"])) for row in csv.DictReader(file)]
    assert rows == [(update.accumulate_grad_batches, plan.micro_batch_size(update)) for update in plan]
    assert {k for k, _ in rows} == {1, 2}


def test_it_must_be_a_number_of_updates() -> None:
    with pytest.raises(ConfigError, match="split_every=0: must be a whole number, at least 1"):
        Plan(Constant(), Fixed(9), 99, 1, split_every=0)

"""The branches that fit into a budget of time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale.errors import ConfigError
from noisescale.measures.branch_options import BranchOptions
from noisescale.studies.time_budget import Budget, Cost, affordable, goes_on

COST = Cost({8: 1000.0, 32: 4000.0}, trunk=2000.0, start=0.5)
N, EPOCHS = 1000, 20


def seconds(times: tuple[float, ...], seeds: int, length: int) -> float:
    return COST.seconds(times, seeds, length, N)


def bought(budget: float, known: BranchOptions | None = None, cost: Cost = COST) -> BranchOptions | None:
    return affordable(cost, budget, EPOCHS, N, 8, 0.2, known)


def test_the_cost_is_the_training_and_every_branch() -> None:
    # 5 epochs at 2000 per second; 2 points, 3 seeds; 0.5 s and 4000 examples at 1000 and at 4000 per second
    assert COST.seconds((1.0, 5.0), 3, 4000, N) == pytest.approx(2.5 + 2 * (0.5 + 1.0) + 2 * 3 * (0.5 + 4.0 + 0.5 + 1.0))
    assert Cost(COST.speeds, COST.trunk, COST.start, rules=2).seconds((1.0,), 3, 4000, N) == pytest.approx(0.5 + 1.5 + 2 * 3 * 6.0)
    evaluated = Cost(COST.speeds, COST.trunk, COST.start, evaluation=(0.01, 0.0001))  # 8 evaluations of 512 examples in each branch
    assert evaluated.seconds((1.0,), 3, 4000, N, 512) == pytest.approx(0.5 + (0.5 + 0.0612 + 0.512) + 3 * (6.0 + 2 * 8 * 0.0612))


@given(budget=st.floats(0.0, 500.0))
def test_what_is_chosen_fits(budget: float) -> None:
    found = bought(budget)
    if found is None:
        assert budget < seconds((1.0,), 2, 256)
    else:
        assert found.at is not None
        assert found.length is not None
        assert seconds(tuple(found.at), found.seeds, found.length_of(N, 8)) <= budget


def test_more_time_buys_a_late_point_first_then_seeds_then_length() -> None:
    found = [bought(budget) for budget in (6.0, 11.0, 15.0, 20.0, 40.0, 1000.0)]
    chosen = [(len(each.at or ()), (each.at or (0.0,))[-1], each.seeds, each.length) for each in found if each is not None]
    assert chosen == sorted(chosen)
    assert chosen[-1] == (2, 15.0, 24, 1.024)


def test_what_was_trained_is_paid_already() -> None:
    """From 6 to 12 seeds costs 6 seeds; with less time than that nothing that tells more is bought."""
    known = replace(bought(1000.0) or BranchOptions(), seeds=6)
    of_six = seconds((1.0, 15.0), 12, 1024) - seconds((1.0, 15.0), 6, 1024)
    more = bought(of_six + 0.01, known)
    assert more == replace(known, seeds=12)
    assert goes_on(known, more)
    assert not goes_on(more, known)
    assert bought(of_six - 0.01, known) is None
    early = replace(known, at=[1.0])
    assert goes_on(early, known)
    assert not goes_on(replace(early, length=0.5), known)


def test_slow_evaluations_are_made_on_fewer_examples() -> None:
    slow = Cost(COST.speeds, COST.trunk, COST.start, evaluation=(0.0, 0.001))
    assert [slow.examples(length, 10_000) for length in (10**9, 10_000, 1000)] == [4096, 512, 256]
    assert COST.examples(1000, 10_000) == 4096


def test_a_budget_is_used_up_over_several_beginnings(tmp_path: Path) -> None:
    now = [100.0]
    first = Budget(60.0, tmp_path / "time.json", lambda: now[0])
    assert first.may_begin("speeds", 59.0)
    now[0] += 40.0
    assert not first.may_begin("branches", 21.0)
    assert first.cut == ["branches"]
    assert first.may_begin("check", 19.0)
    again = Budget(90.0, tmp_path / "time.json", lambda: now[0])
    assert (again.used, again.left) == (40.0, 50.0)
    now[0] += 60.0
    assert again.left == -10.0
    assert not again.may_begin("anything")
    (tmp_path / "time.json").write_text("{")
    with pytest.raises(ConfigError, match=r"time\.json: is damaged"):
        Budget(1.0, tmp_path / "time.json")


def test_no_time_is_no_branches() -> None:
    assert bought(0.1) is None

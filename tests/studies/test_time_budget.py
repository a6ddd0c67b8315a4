"""The branches that fit into a budget of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale.studies.time_budget import Cost, affordable

COST = Cost({8: 1000.0, 32: 4000.0}, trunk=2000.0, start=0.5)
N, EPOCHS = 1000, 20


def seconds(times: tuple[float, ...], seeds: int, length: int) -> float:
    return COST.seconds(times, seeds, length, N)


def test_the_cost_is_the_training_and_every_branch() -> None:
    # 5 epochs at 2000 per second; 2 points, 3 seeds; 0.5 s and 4000 examples at 1000 and at 4000 per second
    assert COST.seconds((1.0, 5.0), 3, 4000, N) == pytest.approx(2.5 + 2 * 3 * (0.5 + 4.0 + 0.5 + 1.0))
    assert Cost(COST.speeds, COST.trunk, COST.start, rules=2).seconds((1.0,), 3, 4000, N) == pytest.approx(0.5 + 2 * 3 * 6.0)


@given(budget=st.floats(0.0, 500.0))
def test_what_is_chosen_fits(budget: float) -> None:
    found = affordable(seconds, budget, EPOCHS, N, 8, 0.2)  # type: ignore[arg-type]
    if found is None:
        assert budget < seconds((1.0,), 2, 256)
    else:
        assert found.at is not None
        assert found.length is not None
        assert seconds(tuple(found.at), found.seeds, found.length_of(N, 8)) <= budget


def test_more_time_buys_a_late_point_first_then_seeds_then_length() -> None:
    bought = [affordable(seconds, budget, EPOCHS, N, 8, 0.2) for budget in (6.0, 11.0, 15.0, 20.0, 1000.0)]  # type: ignore[arg-type]
    chosen = [(len(each.at or ()), (each.at or (0.0,))[-1], each.seeds, each.length) for each in bought if each is not None]
    assert chosen == sorted(chosen)
    assert chosen[-1] == (2, 15.0, 4, 1.024)


def test_no_time_is_no_branches() -> None:
    assert affordable(seconds, 0.1, EPOCHS, N, 8, 0.2) is None  # type: ignore[arg-type]

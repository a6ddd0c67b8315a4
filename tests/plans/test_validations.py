"""After which updates an epoch is validated."""

from __future__ import annotations

from datetime import timedelta
from itertools import accumulate, groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale.plans.validations import check_val_check_interval, validated_updates
from tests.helpers.refusals import error_of

SIZES = st.lists(st.integers(1, 500), min_size=1, max_size=60)


def after(sizes: list[int], interval: float) -> list[int]:
    """`validated_updates`, which is given equal sizes in succession as one."""
    return list(validated_updates([(len(list(group)), size) for size, group in groupby(sizes)], interval))


@given(SIZES, st.integers(1, 80))
def test_a_number_counts_updates(sizes: list[int], n: int) -> None:
    every = [i for i in range(1, len(sizes) + 1) if i % n == 0]
    assert after(sizes, n) == (every or [len(sizes)])


@given(SIZES, st.integers(1, 20))
def test_a_fraction_is_of_the_examples(sizes: list[int], parts: int) -> None:
    """With f = 1/m an update is followed by a validation if the first example of a further part of T/m examples comes after it."""
    seen, total = [0, *accumulate(sizes)], sum(sizes)
    expected = [i for i in range(1, len(seen)) if seen[i] * parts // total > seen[i - 1] * parts // total]
    assert after(sizes, 1 / parts) == expected
    assert len(sizes) in after(sizes, 1 / parts)


def test_a_fraction_does_not_depend_on_how_the_examples_are_divided() -> None:
    assert after([10] * 8, 0.25) == [2, 4, 6, 8]
    assert after([20] * 4, 0.25) == [1, 2, 3, 4]
    assert after([10, 30, 40], 0.25) == [2, 3]
    assert after([10] * 10, 0.3) == [3, 6, 9]


@pytest.mark.parametrize(
    ("interval", "every", "words"),
    [
        (0, 1, "a whole number of updates, at least 1"),
        (0.0, 1, "(0, 1]"),
        (1.5, 1, "(0, 1]"),
        (float("nan"), 1, "(0, 1]"),
        (True, 1, "neither a number of updates nor a fraction"),
        ("00:00:10:00", 1, "neither a number of updates nor a fraction"),
        (timedelta(minutes=10), 1, "neither a number of updates nor a fraction"),
        (0.5, None, "not counted over the epochs"),
        (None, None, "not counted over the epochs"),
    ],
)
def test_what_cannot_be_planned_is_refused(interval: Any, every: Any, words: str) -> None:
    error_of(lambda: check_val_check_interval(interval, every), "val_check_interval", words)


@pytest.mark.parametrize(("interval", "every"), [(None, 1), (1.0, 1), (1, 1), (20, None), (0.25, 3)])
def test_what_can_be_planned_is_accepted(interval: Any, every: Any) -> None:
    check_val_check_interval(interval, every)

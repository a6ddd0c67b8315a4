"""An error is one line: the key, the value, what is valid, what to do instead."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale.errors import ConfigError, check_choice, check_count, check_increasing, check_number

EVERYTHING = {
    "gamma": ConfigError("gamma", 2, "must be in (0, 1]", "use 0.5"),
    "no remedy": ConfigError("gamma", None, "must be given"),
}


def line(check: Callable[..., None], *arguments: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as refusal:
        check(*arguments, **options)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("gamma", 2, "must be in (0, 1]", "use 0.5"), "gamma=2: must be in (0, 1]; use 0.5"),
        (ConfigError("gamma", 2, "must be in (0, 1]"), "gamma=2: must be in (0, 1]"),
    ],
)
def test_the_line(error: ConfigError, expected: str) -> None:
    assert str(error) == expected
    assert isinstance(error, ValueError)


def test_under_puts_the_key_into_its_group_and_leaves_the_error_alone() -> None:
    error = ConfigError("gamma", 2, "must be in (0, 1]", "use 0.5")
    assert str(error.under("scheduler")) == "scheduler.gamma=2: must be in (0, 1]; use 0.5"
    assert str(error.under("scheduler").under("arm")) == "arm.scheduler.gamma=2: must be in (0, 1]; use 0.5"
    assert str(error.under("")) == str(error) == "gamma=2: must be in (0, 1]; use 0.5"


@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", EVERYTHING)
def test_an_error_survives_the_way_to_another_process(travel: Callable[[ConfigError], ConfigError], name: str) -> None:
    error = EVERYTHING[name].under("scheduler")
    arrived = travel(error)
    assert type(arrived) is ConfigError
    assert str(arrived) == str(error)
    assert (arrived.key, arrived.value, arrived.problem, arrived.remedy) == (
        error.key,
        error.value,
        error.problem,
        error.remedy,
    )


# -- check_number -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "printed"),
    [
        ({"above": 0}, "(0, inf)"),
        ({"at_least": 0}, "[0, inf)"),
        ({"below": 1}, "(-inf, 1)"),
        ({"at_most": 1}, "(-inf, 1]"),
        ({"above": 0, "below": 1}, "(0, 1)"),
        ({"above": 0, "at_most": 1}, "(0, 1]"),
        ({"at_least": 0, "below": 1}, "[0, 1)"),
        ({"at_least": 0, "at_most": 1}, "[0, 1]"),
        ({"at_least": 0.1, "below": 1281167}, "[0.1, 1281167)"),  # in full, not as 1.28117e+06
        ({"above": 1e-8, "at_most": 1_234_567.5}, "(1e-08, 1234567.5]"),
        ({}, "(-inf, inf)"),
    ],
)
def test_a_range_is_printed_with_its_open_and_closed_ends(bounds: dict[str, Any], printed: str) -> None:
    assert line(check_number, "x", math.nan, **bounds) == f"x=nan: must be a finite number in {printed}"


def test_unit_and_remedy_follow_the_range() -> None:
    found = line(check_number, "T_max", -1, above=0, unit="epochs", remedy="leave it at null")
    assert found == "T_max=-1: must be a finite number in (0, inf), in epochs; leave it at null"


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 0}, [5e-324, 1, 1e308], [0, 0.0, -0.0, -1]),
        ({"at_least": 0}, [0, -0.0, 5e-324], [-5e-324]),
        ({"below": 1}, [math.nextafter(1, 0), -1e308], [1, 1.0, 2]),
        ({"at_most": 1}, [1, 1.0], [math.nextafter(1, 2)]),
        ({}, [0, -1.5, 10**30], [math.inf, -math.inf, math.nan, "1", None, True, False, [1], 1j]),
    ],
)
def test_bounds_are_exact(bounds: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        check_number("x", value, **bounds)
    for value in outside:
        assert line(check_number, "x", value, **bounds).startswith(f"x={value}: must be a finite number in ")


@given(value=st.floats(allow_nan=False), low=st.floats(-10, 10), high=st.floats(-10, 10))
def test_a_number_passes_exactly_if_it_is_finite_and_in_the_range(value: float, low: float, high: float) -> None:
    for check, valid in (
        (partial(check_number, above=low, below=high), low < value < high),
        (partial(check_number, at_least=low, at_most=high), low <= value <= high),
    ):
        try:
            check("x", value)
        except ConfigError:
            assert not valid
        else:
            assert valid


# -- check_count, check_choice, check_increasing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "must be a whole number, at least 1"),
        ({"unit": "examples"}, "must be a whole number of examples, at least 1"),
        ({"at_least": 0, "at_most": 10, "unit": "updates"}, "must be a whole number of updates, 0 to 10"),
        ({"remedy": "null for no limit"}, "must be a whole number, at least 1; null for no limit"),
    ],
)
@pytest.mark.parametrize("value", [-1, 0.5, 2.0, True, "3", None, math.nan], ids=repr)
def test_what_is_not_a_count_in_words(options: dict[str, Any], words: str, value: Any) -> None:
    assert line(check_count, "n", value, **options) == f"n={value}: {words}"


def test_the_bounds_of_a_count_are_included() -> None:
    check = partial(check_count, "n", at_least=2, at_most=4)
    for value in (2, 3, 4):
        check(value)
    assert [line(check, value) for value in (1, 5)] == [f"n={value}: must be a whole number, 2 to 4" for value in (1, 5)]


@pytest.mark.parametrize("value", ["Carry", "", None, 1, ["carry"]])
def test_a_choice_lists_all_choices(value: Any) -> None:
    check_choice("last", "carry", ("carry", "drop"))
    assert line(check_choice, "last", value, ("carry", "drop")) == f"last={value}: must be one of carry, drop"


def test_choices_may_be_read_only_once() -> None:
    assert line(check_choice, "last", "keep", iter(["carry", "drop"])) == "last=keep: must be one of carry, drop"


@pytest.mark.parametrize("values", [[], [1], [1, 2.5, 3], (0.1, 7)])
def test_increasing_lists_pass(values: Any) -> None:
    check_increasing("milestones", values, unit="epochs")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1, 2], "milestones=[3, 1, 2]: must be strictly increasing, in epochs; for example [1, 2, 3]"),
        ((1, 1), "milestones=[1, 1]: must be strictly increasing, in epochs; for example [1]"),
        ([1, 0], "milestones=0: must be a finite number in (0, inf), in epochs; given: [1, 0]"),
        ([1, True], "milestones=True: must be a finite number in (0, inf), in epochs; given: [1, True]"),
        ([1, "2"], "milestones=2: must be a finite number in (0, inf), in epochs; given: [1, '2']"),
        ([1, math.inf], "milestones=inf: must be a finite number in (0, inf), in epochs; given: [1, inf]"),
        (10, "milestones=10: must be a list of epochs; for example milestones=[10,20]"),
        ("10,20", "milestones=10,20: must be a list of epochs; for example milestones=[10,20]"),
        (None, "milestones=None: must be a list of epochs; for example milestones=[10,20]"),
        ({1: 2}, "milestones={1: 2}: must be a list of epochs; for example milestones=[10,20]"),
    ],
)
def test_lists_that_do_not_increase(values: Any, expected: str) -> None:
    assert line(check_increasing, "milestones", values, unit="epochs") == expected

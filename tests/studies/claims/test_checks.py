"""A check holds, fails or stays open by where the interval of its effect lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from noisescale.errors import ConfigError
from noisescale.studies.claims.checks import Check


def check(**region: Any) -> Check:
    return Check("c", "difference", ("a", "b"), "m", **region)


def status(given: Check, differences: list[float], checks: int = 1) -> str:
    return given.judge({"m": {"a": differences, "b": [0.0] * len(differences)}}, checks).status


NARROW = [0.01, -0.01, 0.02, -0.02, 0.0]
WIDE = [-3.0, 3.0, 2.0, -2.0, 0.0]


@pytest.mark.parametrize(
    ("region", "values", "expected"),
    [
        ({"inside": (-0.1, 0.1)}, NARROW, "holds"),
        ({"inside": (-0.1, 0.1)}, [1 + each for each in NARROW], "fails"),
        ({"inside": (-0.1, 0.1)}, WIDE, "open"),
        ({"outside": (-0.1, 0.1)}, [1 + each for each in NARROW], "holds"),
        ({"outside": (-0.1, 0.1)}, [each - 1 for each in NARROW], "holds"),
        ({"outside": (-0.1, 0.1)}, NARROW, "fails"),
        ({"outside": (-0.1, 0.1)}, WIDE, "open"),
        ({"above": 0.5}, [1 + each for each in NARROW], "holds"),
        ({"above": 0.5}, NARROW, "fails"),
        ({"above": 0.5}, WIDE, "open"),
        ({"below": -0.5}, [each - 1 for each in NARROW], "holds"),
        ({"below": -0.5}, NARROW, "fails"),
        ({"below": 0.0}, [0.0, 0.0, 0.0], "fails"),
        ({"inside": (-0.1, 0.1)}, [0.0], "open"),
    ],
)
def test_status(region: dict[str, Any], values: list[float], expected: str) -> None:
    assert status(check(**region), values) == expected


def test_refuting_by_one_of_many_checks_needs_more() -> None:
    values = [0.6 + each for each in (0.3, -0.3, 0.2, -0.1, 0.1)]
    given = check(inside=(-0.4, 0.4))
    assert status(given, values, checks=1) == "fails"
    assert status(given, values, checks=50) == "open"


def test_arms_that_are_equal_are_refuted_in_at_most_one_case_of_twenty() -> None:
    """The level of the rule itself: on the bound of the region, a check holds by chance in 5 % of the cases, and fails in 5 %."""
    random = np.random.default_rng(0)
    given = check(above=1.0)
    found = [status(given, random.normal(1.0, 1.0, 5).tolist()) for _ in range(1000)]
    assert 0.03 < found.count("holds") / 1000 < 0.07
    assert 0.03 < found.count("fails") / 1000 < 0.07


def test_a_missing_value_leaves_a_check_open_and_says_where() -> None:
    outcome = check(above=0.0).judge({"m": {"a": [1.0, None, 2.0], "b": [0.0, 0.0, 0.0]}})
    assert outcome.status == "open"
    assert outcome.why == "a has no m in 1 runs"


def test_a_ratio_of_what_is_not_positive_is_open() -> None:
    given = Check("c", "ratio", ("a", "b"), "m", above=1.0)
    assert given.judge({"m": {"a": [1.0, 0.0], "b": [1.0, 1.0]}}).status == "open"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"inside": (0, 1), "above": 2},
        {"inside": (1, 0)},
        {"above": float("nan")},
        {"arms": ("a",), "above": 1},
        {"effect": "guess", "above": 1},
        {"effect": "slope", "above": 1},
    ],
)
def test_a_check_that_means_nothing_is_refused(arguments: dict[str, Any]) -> None:
    given = {"effect": "difference", "arms": ("a", "b"), "metric": "m", **arguments}
    with pytest.raises(ConfigError):
        Check("c", **given)

"""What the measurements support: each decision with data on which it is the other one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from noisescale.studies.recommendation import Arm, Branching, Finding, Measured, NoiseAt, Rates, Recommendation, Speed, recommendation
from noisescale.studies.recommendation_page import as_json, page


def branching(epoch: float, held: int | None, broke: int | None, by: str = "batch", n: int = 3) -> Branching:
    """Branches at B = 8, 32, ..., 2048, with a loss of 0.1 up to `held` and of 0.2 above."""
    good = held or 0
    arms = tuple(
        Arm(size, 0.1 * size / 32, 0.1 if size <= good else 0.2, 0.01, n) for size in (8, 32, 128, 512, 2048) if size <= (broke or 2048)
    )
    return Branching(epoch, arms, held, broke, by if broke else "")


MEASURED = Measured(
    num_examples=54_000,
    epochs=10.0,
    batch_size=32,
    lr=0.1,
    rule="sgd",
    tolerance=0.05,
    speeds=(Speed(32, 1000.0, 950.0, 1050.0), Speed(128, 2900.0, 2800.0, 3000.0), Speed(512, 3000.0, 2900.0, 3100.0)),
    rates=Rates(32, {"steepest": 0.05, "valley": 0.1, "minimum/10": 0.2}),
    branches=(branching(0.1, 128, 512), branching(4.0, 128, 512)),
)


def about(found: Recommendation, what: str) -> Finding:
    (finding,) = [each for each in found.findings if each.about == what]
    return finding


def test_the_batch_is_the_smallest_fast_one_within_the_bound() -> None:
    found = recommendation(MEASURED)
    assert (found.batch_size, found.accumulate, found.max_batch_size) == (128, 1, None)
    assert found.lr == pytest.approx(0.4)
    assert found.is_sure
    assert about(found, "growth").sentence.startswith("early or late makes no difference: at epoch 0.1 and at epoch 4")


def test_a_bound_below_the_fast_batch_is_kept() -> None:
    found = recommendation(replace(MEASURED, branches=(branching(0.1, 32, 128), branching(4.0, 512, 2048))))
    assert (found.batch_size, found.max_batch_size) == (32, 512)
    assert found.lr == pytest.approx(0.1)
    assert "a faster one, B = 128, would lose something" in about(found, "batch size").sentence
    assert about(found, "growth").sentence == "grow late: nothing is lost up to B = 32 at epoch 0.1 and up to B = 512 at epoch 4"


def test_a_bound_that_falls_says_so() -> None:
    found = recommendation(replace(MEASURED, branches=(branching(0.1, 512, 2048), branching(4.0, 32, 128))))
    assert found.max_batch_size is None
    assert about(found, "growth").sentence == "grow early, if at all: the bound falls from B = 512 at epoch 0.1 to B = 32 at epoch 4"


def test_an_adaptive_optimizer_takes_the_square_root() -> None:
    assert recommendation(replace(MEASURED, rule="adaptive")).lr == pytest.approx(0.2)


def test_a_limit_is_accumulated() -> None:
    found = recommendation(replace(MEASURED, limit=20, limit_was_measured=True, devices=2))
    assert found.accumulate == 4  # 128 / (2 * 20) = 3.2
    assert about(found, "memory").sentence == "4 micro-batches per update: the largest micro-batch that was run has 20 examples"
    assert about(recommendation(replace(MEASURED, limit=64, devices=2)), "memory").sentence.startswith("no accumulation: the limit of the")


@pytest.mark.parametrize(
    ("without", "what", "would_decide"),
    [
        ({"branches": ()}, "batch size", "branches from an early and a late epoch"),
        ({"branches": (branching(0.1, 128, 512, n=2), branching(4.0, 128, 512))}, "batch size", "branches with three seeds or more"),
        (
            {"branches": (branching(0.1, None, None), branching(4.0, 128, 512))},
            "batch size",
            "branches with smaller batches and more seeds",
        ),
        ({"rates": None}, "learning rate", "a range test"),
        (
            {"rates": Rates(32, {"a": 0.01, "b": 1.0})},
            "learning rate",
            "short trainings with each of the suggestions, which differ more than tenfold",
        ),
    ],
    ids=str,
)
def test_what_does_not_decide_is_not_sure(without: dict[str, object], what: str, would_decide: str) -> None:
    found = recommendation(replace(MEASURED, **without))  # type: ignore[arg-type]
    assert not found.is_sure
    assert about(found, what).would_decide == would_decide


def test_growth_is_not_known_from_one_time_or_without_a_break() -> None:
    once = recommendation(replace(MEASURED, branches=MEASURED.branches[:1]))
    assert about(once, "growth").would_decide == "branches from a late epoch"
    unbroken = recommendation(replace(MEASURED, branches=(branching(0.1, 2048, None), branching(4.0, 2048, None))))
    assert about(unbroken, "growth").would_decide == "branches with larger batches"
    assert (unbroken.batch_size, unbroken.max_batch_size) == (128, 2048)


def test_the_largest_speed_is_not_known_while_it_still_rises() -> None:
    rising = (Speed(32, 1000.0, 990.0, 1010.0), Speed(128, 2000.0, 1990.0, 2010.0))
    assert about(recommendation(replace(MEASURED, speeds=rising)), "speed").would_decide.startswith("the speed of larger batches")
    assert about(recommendation(MEASURED), "speed").is_sure


def test_what_breaks_a_larger_batch_is_named() -> None:
    arms = (*branching(1.0, 128, 128).arms, Arm(512, 1.6, math.nan, math.nan, 3))
    by_rate = replace(MEASURED, branches=(Branching(1.0, arms, 128, 512, "instability"),))
    sentence = (
        "at epoch 1, B = 512 costs: after the same examples the training diverged; the learning rate that keeps the noise is too large"
    )
    assert about(recommendation(by_rate), "larger batches").sentence == sentence
    by_batch = recommendation(replace(MEASURED, branches=(branching(1.0, 128, 512),)))
    assert about(by_batch, "larger batches").sentence.endswith("the loss is 0.2 instead of 0.1; the batch is too large")


@pytest.mark.parametrize(("late", "agrees"), [(4594.0, "does not agree"), (300.0, "agrees")])
def test_b_simple_is_shown_and_decides_nothing(late: float, agrees: str) -> None:
    found = recommendation(replace(MEASURED, noise=(NoiseAt(0.1, 282.0), NoiseAt(4.0, late), NoiseAt(5.0, math.nan))))
    sentence = about(found, "noise scale").sentence
    assert sentence.startswith("B_simple, the gradient noise scale, is 282 at epoch 0.1")
    assert f"it {agrees} with the branches" in sentence
    assert found.batch_size == recommendation(MEASURED).batch_size


def test_the_page_and_the_file_have_every_measurement() -> None:
    measured = replace(MEASURED, noise=(NoiseAt(0.1, 282.0, 200.0, math.nan),))
    found = recommendation(measured)
    text = page(found, measured, "python train.py batch.size=128", updates="410 updates.", figures=("speeds.png",))
    assert "**B = 128, lr = 0.4**, accumulate 1. The measurements decide." in text
    assert "python train.py batch.size=128" in text
    assert "| 0.1 | 282 | 200 | not finite |" in text
    assert "![speeds](speeds.png)" in text
    assert sum(line.startswith("| 0.1 | ") for line in text.splitlines()) == 4 + 1
    content = json.loads(as_json(found, measured, "python train.py"))
    assert content["recommendation"]["batch_size"] == 128
    assert content["measured"]["noise"][0]["high"] is None

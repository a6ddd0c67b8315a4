"""What the measurements support: each decision with data on which it is the other one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from noisescale.measures.branch_verdicts import Reference, compare, critical_batch
from noisescale.measures.branches import RULES, Arm
from noisescale.studies.branch_results import PointFound, RuleFound, SizeFound
from noisescale.studies.branching import Point
from noisescale.studies.measured import Measured, PairCheck, Rates, RateTrial, Speed
from noisescale.studies.recommendation import Finding, Recommendation, recommendation
from noisescale.studies.recommendation_page import as_json, page

SIZES = (8, 32, 128, 512, 2048)
GOOD, BAD = (0.100, 0.101, 0.102), (0.2, 0.21, 0.22)


def rule(name: str, good: int, cause: str = "batch", bad: tuple[float, ...] = BAD, start: float = 0.3) -> RuleFound:
    """Branches at B = 8, 32, ..., 2048, of which those up to `good` lose nothing."""
    tried = [size for size in SIZES if size <= 4 * good]
    losses = {size: GOOD if size <= good else bad for size in tried}
    reference = Reference(start, GOOD, 0.2, 0.5)
    compared = {size: compare(losses[size], reference) for size in tried}
    shown = [SizeFound(size, Arm(name, size).rate(32) * 0.1, 10, losses[size][1], 0.001, 1.0, compared[size]) for size in tried]
    critical = critical_batch(compared)
    return RuleFound(name, tuple(shown), reference, replace(critical, cause=cause if math.isfinite(critical.below) else "none"), None)


def at(epoch: float, good: int, *more: RuleFound, simple: float = 300.0, cause: str = "batch", bad: tuple[float, ...] = BAD) -> PointFound:
    point = Point(0, 100, epoch, 54_000, 32, 0.1, 27_000, "SGD", 0.3, simple, 1.0, 1)
    return PointFound(point, (rule("linear", good, cause, bad), *more))


SUGGESTED = {"steepest": 0.05, "valley": 0.1, "minimum/10": 0.2}


def trials(*losses: float) -> tuple[RateTrial, ...]:
    """Short trainings with the rates 0.03, 0.1, 0.3, and the mean losses that are given."""
    return tuple(RateTrial(lr, 200, (loss - 0.01, loss + 0.01)) for lr, loss in zip((0.03, 0.1, 0.3), losses, strict=True))


MEASURED = Measured(
    batch_size=32,
    lr=0.1,
    epochs=10.0,
    rule="sgd",
    speeds=(Speed(32, 1000.0, 950.0, 1050.0), Speed(128, 2900.0, 2800.0, 3000.0), Speed(512, 3000.0, 2900.0, 3100.0)),
    rates=Rates(32, SUGGESTED, trials=trials(0.3, 0.1, 0.2)),
    branches=(at(0.1, 128), at(4.0, 128)),
    check=PairCheck(128, 0.4, 50, (0.11, 0.12), (0.09, 0.11)),
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
    found = recommendation(replace(MEASURED, branches=(at(0.1, 32), at(4.0, 512))))
    assert (found.batch_size, found.max_batch_size) == (32, 512)
    assert found.lr == pytest.approx(0.1)
    assert "a faster one, B = 128, was not shown to be as good" in about(found, "batch size").sentence
    expected = "grow late: nothing is lost up to B = 32 at epoch 0.1 and up to B = 512 at epoch 4"
    assert about(found, "growth").sentence == expected


def test_a_bound_that_falls_says_so() -> None:
    found = recommendation(replace(MEASURED, branches=(at(0.1, 512), at(4.0, 32))))
    assert found.max_batch_size is None
    assert about(found, "growth").sentence.startswith("grow early, if at all: nothing is lost up to B = 512 at epoch 0.1")


@pytest.mark.parametrize(
    ("sqrt", "lr", "scaling", "dual", "is_sure"),
    [(512, 0.2, "sqrt", "adaptive", True), (32, 0.4, "linear", "sgd", True), (128, 0.2, "sqrt", None, False)],
)
def test_an_adaptive_optimizer_takes_the_rule_that_the_branches_tell_from_the_other(
    sqrt: int, lr: float, scaling: str, dual: str | None, is_sure: bool
) -> None:
    both = tuple(at(epoch, 128, rule("sqrt", sqrt)) for epoch in (0.1, 4.0))
    measured = replace(MEASURED, rule="adaptive", branches=both)
    assert (measured.scaling, measured.dual_rule) == (scaling, dual)
    found = recommendation(measured)
    assert found.lr == pytest.approx(lr)
    assert about(found, "rule").is_sure == is_sure == found.is_sure
    assert {*RULES} == {"linear", "sqrt"}


def test_brackets_that_overlap_do_not_choose_a_rule() -> None:
    """The linear bracket is [128, 512], that of the root [32, inf): the larger of the two lower ends is chance."""
    spread = (0.05, 0.1, 0.25)
    open_root = rule("sqrt", 32, bad=spread)
    assert (open_root.critical.at_least, open_root.critical.below) == (32, math.inf)
    measured = replace(MEASURED, rule="adaptive", branches=(at(0.1, 128, open_root), at(4.0, 128, open_root)))
    assert (measured.winner, measured.scaling) == (None, "sqrt")
    assert about(recommendation(replace(measured, speeds=())), "rule").is_sure, "at the batch of the configuration no rule is needed"
    opposed = replace(MEASURED, rule="adaptive", branches=(at(0.1, 128, rule("sqrt", 512)), at(4.0, 512, rule("sqrt", 32))))
    assert opposed.winner is None
    endless = replace(MEASURED, rule="adaptive", branches=(at(0.1, 2048, rule("sqrt", 2048)), at(4.0, 2048, rule("sqrt", 2048))))
    assert about(recommendation(endless), "rule").would_decide == "branches with larger batches"


CHECKED = PairCheck(128, 0.4, 50, (0.11, 0.12), (0.09, 0.11))


@pytest.mark.parametrize(
    ("check", "batch", "lr", "would_decide"),
    [
        (CHECKED, 128, 0.4, ""),
        (replace(CHECKED, losses=(0.19, 0.2)), 128, 0.4, "whole trainings with both"),
        (replace(CHECKED, losses=(0.1, math.inf)), 32, 0.1, "a longer warm-up, or a batch in between"),
        (None, 128, 0.4, "a short training with this pair, or a larger budget"),
    ],
)
def test_the_pair_that_was_tried_from_new_weights(check: PairCheck | None, batch: int, lr: float, would_decide: str) -> None:
    found = recommendation(replace(MEASURED, check=check))
    assert found.batch_size == batch
    assert found.lr == pytest.approx(lr)
    assert about(found, "new weights").would_decide == would_decide
    assert found.is_sure == (not would_decide)


def test_a_budget_that_was_used_up_is_said() -> None:
    found = recommendation(replace(MEASURED, cut_short="all branches"))
    assert about(found, "budget").sentence == "there was no time for all branches"
    assert not found.is_sure


def test_a_limit_is_accumulated() -> None:
    found = recommendation(replace(MEASURED, limit=20, limit_was_measured=True, devices=2))
    assert found.accumulate == 4  # 128 / (2 * 20) = 3.2
    assert about(found, "memory").sentence == "4 micro-batches per update: the largest micro-batch that was run has 20 examples"
    assert about(recommendation(replace(MEASURED, limit=64, devices=2)), "memory").sentence.startswith("no accumulation: the limit of the")


@pytest.mark.parametrize(
    ("without", "what", "would_decide"),
    [
        ({"branches": ()}, "batch size", "branches from an early and a late epoch"),
        ({"branches": (at(0.1, 8), at(4.0, 128))}, "batch size", "branches with smaller batches, and with more seeds"),
        ({"branches": (at(0.1, 2048),), "speeds": ()}, "growth", "branches from more epochs at which the loss still falls"),
        ({"rates": None}, "learning rate", "a range test"),
        ({"rates": Rates(32, SUGGESTED)}, "learning rate", "short trainings with several rates, which the budget has not allowed"),
        ({"rates": Rates(32, SUGGESTED, trials=trials(0.3, 0.2, 0.1))}, "learning rate", "trainings with larger rates"),
        ({"rates": Rates(32, SUGGESTED, trials=trials(0.1, 0.2, 0.3))}, "learning rate", "trainings with smaller rates"),
    ],
    ids=str,
)
def test_what_does_not_decide_is_not_sure(without: dict[str, object], what: str, would_decide: str) -> None:
    found = recommendation(replace(MEASURED, **without))  # type: ignore[arg-type]
    assert about(found, what).would_decide == would_decide
    assert found.is_sure == (what == "growth")


def test_a_speed_that_asks_for_more_than_was_tried_is_not_sure() -> None:
    fast = (Speed(32, 1000.0, 990.0, 1010.0), Speed(4096, 9000.0, 8900.0, 9100.0), Speed(8192, 9100.0, 9000.0, 9200.0))
    found = recommendation(replace(MEASURED, speeds=fast, branches=(at(0.1, 2048), at(4.0, 2048))))
    assert found.batch_size == 2048
    assert about(found, "batch size").would_decide == "branches with larger batches, to find where they break"
    assert about(found, "growth").would_decide == "branches with larger batches"


def test_the_largest_speed_is_not_known_while_it_still_rises() -> None:
    rising = (Speed(32, 1000.0, 990.0, 1010.0), Speed(128, 2000.0, 1990.0, 2010.0))
    assert about(recommendation(replace(MEASURED, speeds=rising)), "speed").would_decide.startswith("the speed of larger batches")
    assert about(recommendation(MEASURED), "speed").is_sure


def test_what_a_larger_batch_costs_and_what_stops_it_is_said() -> None:
    by_rate = recommendation(replace(MEASURED, branches=(at(1.0, 128, cause="rate"),)))
    loss = "at epoch 1 with B = 512, after the same examples, the loss is 0.21, and 0.101 with B = 128"
    assert about(by_rate, "larger batches").sentence == f"{loss}; stopped by the learning rate, not by the batch"
    diverged = PointFound(MEASURED.branches[0].at, (rule("linear", 128, "rate", (math.inf, math.inf, math.inf)),))
    found = recommendation(replace(MEASURED, branches=(diverged,)))
    assert "after the same examples, the training diverged; stopped by the learning rate" in about(found, "larger batches").sentence


@pytest.mark.parametrize(("late", "agrees"), [(4594.0, "does not agree"), (300.0, "agrees")])
def test_b_simple_is_shown_and_decides_nothing(late: float, agrees: str) -> None:
    found = recommendation(
        replace(MEASURED, branches=(at(0.1, 128, simple=282.0), at(2.0, 128, simple=math.nan), at(4.0, 128, simple=late)))
    )
    sentence = about(found, "noise scale").sentence
    assert sentence.startswith("B_simple, the gradient noise scale, is 282 at epoch 0.1")
    assert f"it {agrees} with the branches" in sentence
    assert found.batch_size == recommendation(MEASURED).batch_size


def test_the_page_and_the_file_have_every_measurement() -> None:
    measured = replace(MEASURED, branches=(at(0.1, 128, simple=math.nan), at(4.0, 128)))
    found = recommendation(measured)
    text = page(found, measured, "python train.py batch.size=128", updates="410 updates.", figures=("speeds.png",))
    assert "**B = 128, lr = 0.4**, accumulate 1. The measurements decide." in text
    assert "python train.py batch.size=128" in text
    assert "| 0.1 | linear | about 181 (128 to 512) | not finite |" in text
    assert "![speeds](speeds.png)" in text
    assert sum(line.startswith("| 0.1 | linear | ") for line in text.splitlines()) == 4 + 1
    content = json.loads(as_json(found, measured, "python train.py"))
    assert content["recommendation"]["batch_size"] == 128
    assert content["measured"]["branches"][0]["at"]["trace"] is None


def test_of_the_short_trainings_the_best_is_taken_and_without_them_the_middle_suggestion() -> None:
    assert Rates(32, SUGGESTED).chosen == 0.1
    assert Rates(32, {"a": 0.3, "b": 0.1}).chosen == 0.1
    diverged = Rates(32, SUGGESTED, trials=trials(0.3, 0.2, math.inf))
    assert diverged.chosen == 0.1
    assert about(recommendation(replace(MEASURED, rates=diverged)), "learning rate").is_sure  # the next one diverged
    assert Rates(32, SUGGESTED, trials=trials(math.inf, math.inf, math.inf)).chosen == 0.1


def test_the_batch_of_the_configuration_stays_if_the_seeds_leave_it_open() -> None:
    spread = (0.05, 0.1, 0.25)
    point = at(0.1, 8, bad=spread)
    assert point.rules[0].critical.at_least == 8
    assert math.isinf(point.rules[0].critical.below)
    found = recommendation(replace(MEASURED, branches=(point, at(4.0, 128))))
    assert found.batch_size == 32
    assert about(found, "batch size").would_decide == "branches with more seeds"


def test_a_time_at_which_the_loss_hardly_moves_decides_nothing() -> None:
    flat = PointFound(replace(at(15.0, 2048).at, loss=0.1011), (rule("linear", 2048, start=0.1011),))  # 0.100 to 0.102 at the end
    found = recommendation(replace(MEASURED, branches=(at(0.1, 128), flat)))
    assert found.max_batch_size is None
    assert "the loss hardly moved in the other branches" in about(found, "growth").sentence
    alone = recommendation(replace(MEASURED, branches=(flat,)))
    assert (alone.batch_size, alone.is_sure) == (32, False)
    assert "the loss hardly moved in the branches" in about(alone, "batch size").sentence


def test_of_rates_that_do_not_differ_the_smallest_is_taken() -> None:
    assert Rates(32, SUGGESTED, trials=trials(0.11, 0.1, 0.3)).chosen == 0.03
    assert Rates(32, SUGGESTED, trials=trials(0.13, 0.1, 0.3)).chosen == 0.1


def test_a_batch_is_not_changed_without_branches_however_fast_another_is() -> None:
    assert recommendation(replace(MEASURED, branches=())).batch_size == 32


def test_trainings_that_all_diverged_are_said() -> None:
    found = recommendation(replace(MEASURED, rates=Rates(32, SUGGESTED, trials=trials(math.inf, math.inf, math.inf))))
    assert about(found, "learning rate").sentence.endswith("all 3 short trainings diverged")
    assert about(found, "learning rate").would_decide == "trainings with smaller rates"

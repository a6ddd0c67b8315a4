"""The warnings about a plan: each appears where it should and nowhere else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from noisescale import schedules
from noisescale.plans.duality import CyclicBatch, Dual
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, Full, Linear, MultiStep
from noisescale.plans.summary import summarize
from noisescale.plans.warnings import plan_warnings
from noisescale.schedules import Schedule
from tests.helpers.plans import CUT, TO_THE_FULL_BATCH, N, plan_of


def notes_of(plan: Plan, words: str = "", weight_decay: float = 0.0, **options: Any) -> list[str]:
    """The warnings that contain `words`."""
    warnings = plan_warnings(summarize(plan, 0.05, **options), options.get("optimizer", "SGD"), weight_decay)
    return [line for line in warnings if words in line]


def note_of(plan: Plan, words: str, **options: Any) -> str:
    found = notes_of(plan, words, **options)
    assert len(found) == 1, found
    return found[0]


def test_a_modest_plan_has_no_notes() -> None:
    assert notes_of(plan_of(schedules.Cosine(), Fixed(32, last="carry")), momentum=0.9) == []
    assert notes_of(plan_of(schedules.Inverse(0.05), Dual(32, rule="sgd", last="carry"))) == []


def test_a_strategy_that_has_no_schedule_to_carry_is_named() -> None:
    words = "Dual keeps B = 32 and the learning rate, because there is no schedule"
    for schedule in (schedules.Constant(), schedules.Warmup(2, 0.1).before(schedules.Constant(), 20)):
        for growth in (0.0, 0.5, 1.0):
            assert note_of(plan_of(schedule, Dual(32, rule="sgd", growth=growth)), words)
    for schedule in (schedules.Cosine(), schedules.MultiStep([19.9], 0.5), schedules.Step(19, 0.1)):
        assert not notes_of(plan_of(schedule, Dual(32, rule="sgd")), "no schedule")
    assert not notes_of(plan_of(schedules.Constant(), CyclicBatch(32, 1, rule="sgd")), "no schedule")
    assert not notes_of(plan_of(schedules.Constant(), Fixed(32)), "no schedule")


@pytest.mark.parametrize("schedule", [schedules.Step(5, 0.1), schedules.MultiStep([3, 30], 0.1), schedules.Warmup(1, 0.1, mode="shift")])
def test_a_schedule_that_does_not_change_before_the_end_is_there_all_the_same(schedule: Any) -> None:
    if isinstance(schedule, schedules.Warmup):
        schedule = schedule.before(schedules.Step(1, 0.1), 2)
    note = "Dual keeps B = 32 and the learning rate, because the schedule is constant up to epoch 2"
    assert notes_of(Plan(schedule, Dual(32, rule="sgd"), N, 2), "keeps B") == [note]
    assert not notes_of(Plan(schedule, Dual(32, rule="sgd"), N, 31), "keeps B")


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (TO_THE_FULL_BATCH, f"from epoch 1 on B would be 32000 and is clipped to N = {N}, the full batch; max_size sets a lower cap"),
        (MultiStep(32, [5, 10, 15], 5), f"from epoch 15 on B would be 4000 and is clipped to N = {N}, the full batch"),
        (MultiStep(32, [5, 10, 15], 3), ""),
        (MultiStep(32, [5, 30], 10), ""),  # the second one is after the end
        (MultiStep(32, [5], 100, max_size=N), ""),
        (Full(), ""),
    ],
)
def test_a_batch_that_is_clipped_to_n_is_named(strategy: BatchStrategy, line: str) -> None:
    plan = plan_of(schedules.Constant(), strategy)
    assert [each.startswith(line) for each in notes_of(plan, "clipped")] == ([True] if line else [])
    assert max(update.planned_batch_size for update in plan) <= N


@pytest.mark.parametrize(
    ("strategy", "name", "cap"),
    [
        (Dual(32, rule="sgd"), "N/10", 129),
        (Dual(32, rule="sgd", max_size=100), "batch.max_size", 100),
        (Dual(32, rule="sgd", max_size=64, micro_batch_size=32), "batch.max_size", 64),
        (Dual(32, rule="sgd", growth=0.5, max_size=64), "batch.max_size", 64),
    ],
)
def test_the_epoch_at_which_the_batch_meets_its_cap_is_named(strategy: Dual, name: str, cap: int) -> None:
    plan = plan_of(schedules.Cosine(), strategy)
    at = next(update.epoch for update in plan if update.planned_batch_size == cap)
    assert note_of(plan, "reaches its cap").startswith(f"B reaches its cap {name} = {cap} at epoch {at:.4g}:")
    assert not notes_of(plan_of(schedules.Constant(), strategy), "reaches its cap")


def test_a_cap_that_micro_batches_do_not_divide_is_met_below_it() -> None:
    """With N/10 = 129 and micro-batches of 16, B is at most 128."""
    plan = plan_of(schedules.Cosine(), Dual(32, rule="sgd", micro_batch_size=16))
    at = next(update.epoch for update in plan if update.planned_batch_size == 128)
    assert f"at epoch {at:.4g}" in note_of(plan, "reaches its cap")


def test_a_cap_is_named_as_it_was_given() -> None:
    plan = plan_of(schedules.Polynomial(1, 10), Dual(32, rule="sgd", max_size=N))
    assert "= 1292" not in " ".join(notes_of(plan, "batch.max_size"))


def test_a_cap_that_is_b0_is_said_to_save_nothing() -> None:
    note = "B0 = 200 is not below its cap N/10 = 129: the learning rate carries all of the noise, and no updates are saved"
    assert note_of(plan_of(schedules.Cosine(), Dual(200, rule="sgd")), "no updates are saved") == note
    assert not notes_of(plan_of(schedules.Cosine(), Dual(200, rule="sgd", growth=0.0)), "no updates are saved")


@pytest.mark.parametrize(("schedule", "noted"), [(schedules.Linear(100, 1, 10), True), (schedules.Linear(2, 1, 10), False)])
def test_where_the_batch_cannot_be_smaller_the_rate_rises(schedule: Schedule, noted: bool) -> None:
    assert bool(notes_of(plan_of(schedule, Dual(8, rule="sgd")), "for more noise, the learning rate rises instead")) == noted


@pytest.mark.parametrize(("size", "noted"), [(129, False), (130, True), (N, True)])
def test_a_batch_above_a_tenth_of_n(size: int, noted: bool) -> None:
    found = notes_of(plan_of(schedules.Cosine(), Fixed(size)), "N/10")
    assert bool(found) == noted
    assert not noted or found[0].startswith(f"B = {size} at epoch 0 is above N/10 = 129")


def test_the_batch_above_a_tenth_is_dated() -> None:
    plan = plan_of(CUT, Dual(32, rule="sgd", max_size=N))
    assert note_of(plan, "above N/10").startswith("B = 262 at epoch 10 is above N/10 = 129")


def test_the_rate_at_a_cut_is_named_beside_that_of_the_batch_of_before() -> None:
    found = note_of(plan_of(CUT, Dual(32, rule="sgd", max_size=N)), "after the cut at")
    plan = plan_of(CUT, Dual(32, rule="sgd", max_size=N))
    rate = next(0.05 * update.lr_factor for update in plan if update.epoch >= 10)
    assert found.startswith(f"after the cut at epoch 10 lr is {rate:.4g}, in the counterpart 0.005: ")
    published = plan_of(CUT, Dual(32, rule="sgd", match="ratio", max_size=N))
    assert "is (3.8 - lr h/10) to (3.8 - lr h)" in note_of(published, "after the cut at", momentum=0.9)
    adaptive = plan_of(CUT, Dual(32, rule="adaptive", max_size=N))
    assert not notes_of(adaptive, "after the cut at", optimizer="Adam"), "the model is one of SGD"
    for strategy in (Fixed(32), Dual(32, rule="sgd", growth=0.0), Dual(32, rule="sgd", growth=0.0, match="ratio")):
        assert not notes_of(plan_of(CUT, strategy), "after the cut at")
    assert not notes_of(plan_of(schedules.Cosine(), Dual(32, rule="sgd", max_size=N)), "after the cut at"), "a cosine has no cut"


def test_a_cut_to_the_full_batch_is_no_division_by_zero() -> None:
    summarize(plan_of(schedules.Constant(), TO_THE_FULL_BATCH), 0.05, 0.9)


def test_the_memory_of_momentum() -> None:
    found = note_of(plan_of(schedules.Constant(), Fixed(400)), "epochs to fill", momentum=0.9)
    assert found.startswith(f"momentum 0.9 at B = 400 takes B/(N(1-m)) = {400 / N / 0.1:.1f} epochs to fill")
    assert not notes_of(plan_of(schedules.Constant(), Fixed(400)), "epochs to fill", momentum=0.0)
    assert not notes_of(plan_of(schedules.Constant(), Fixed(100)), "epochs to fill", momentum=0.9)


def test_a_small_last_window() -> None:
    found = note_of(plan_of(schedules.Constant(), Fixed(32)), "the window that ends")
    assert re.match(r"the window that ends epoch 1 has 13 of 32 examples, 2\.(46|5)x the noise", found)
    modest = [Fixed(32, last=last) for last in ("carry", "drop", "spread")]
    for strategy in (*modest, Fixed(32, match_last=True), Fixed(N // 2 + 100)):
        assert not notes_of(plan_of(schedules.Constant(), strategy), "the window that ends")


def test_how_much_more_noise_a_small_window_has_is_by_g() -> None:
    """N = 110, B = 100: a window of 10 has (11 - 1)/(1.1 - 1) = 100 times the noise, not 10 times."""
    found = note_of(plan_of(schedules.Constant(), Fixed(100), num_examples=110), "the window that ends")
    assert ", 100x the noise" in found


@pytest.mark.parametrize(
    ("strategy", "optimizer", "noted"),
    [
        (Dual(32, rule="sgd"), "Adam", False),
        (Dual(32, rule="sgd"), "SGD", False),
        (Dual(32, rule="adaptive"), "SGD", True),
        (Dual(32, rule="adaptive"), "AdamW", True),
        (Dual(32, rule="adaptive", growth=0.5), "Adam", False),
        (Dual(32, rule="adaptive"), "RMSprop", False),
        (CyclicBatch(32, 2, rule="sgd"), "RMSprop", True),
        (Dual(32, rule="sgd", growth=0.0), "Adam", False),
        (Fixed(32), "Adam", False),
    ],
)
def test_a_rule_for_another_optimizer(strategy: BatchStrategy, optimizer: str, noted: bool) -> None:
    found = notes_of(plan_of(schedules.Cosine(), strategy), "batch.rule=", optimizer=optimizer)
    assert bool(found) == noted
    assert not noted or optimizer in found[0]


def test_adam_is_told_which_rule_was_measured() -> None:
    """The rule of its own noise was further off than the one that it has by default."""
    other = note_of(plan_of(schedules.Cosine(), Dual(32, rule="adaptive")), "batch.rule=adaptive", optimizer="Adam")
    assert "the noise of Adam where its gradient is mostly noise; sgd follows a decaying rate more closely" in other


def test_weight_decay_acts_once_per_update() -> None:
    plan = plan_of(schedules.Cosine(), Dual(32, rule="adaptive"))
    assert note_of(plan, "weight_decay=0.01", optimizer="AdamW", weight_decay=0.01)
    assert not notes_of(plan, "weight_decay", optimizer="AdamW")


@pytest.mark.parametrize(
    "strategy",
    [
        Dual(32, rule="adaptive"),
        Dual(32, rule="sgd", growth=0.5),
        CyclicBatch(32, 2, rule="adaptive"),
        MultiStep(32, [10], 5),
        Linear(32, 128, 10),
        TO_THE_FULL_BATCH,
    ],
)
def test_adagrad_has_no_dual_by_its_batch(strategy: BatchStrategy) -> None:
    plan = plan_of(schedules.Cosine(), strategy)
    found = note_of(plan, "no dual by its batch", optimizer="Adagrad")
    assert "the sum of all squared gradients" in found
    assert found.endswith("let the learning rate carry the noise (batch=small)")
    assert not notes_of(plan, "whose rule is", optimizer="Adagrad"), "no rule fits it"
    for other in ("Adadelta", "Adam", "RMSprop", "SGD"):
        assert not notes_of(plan, "no dual by its batch", optimizer=other)


@pytest.mark.parametrize("strategy", [Fixed(32), Full(), Dual(32, rule="adaptive", growth=0.0)])
def test_a_constant_batch_suits_adagrad(strategy: BatchStrategy) -> None:
    assert not notes_of(plan_of(schedules.Cosine(), strategy), "Adagrad", optimizer="Adagrad")


def test_adagrad_needs_no_rate_that_is_scaled_with_the_batch() -> None:
    plan = plan_of(schedules.Cosine(), Fixed(512, lr_rule="sqrt", reference_size=32))
    assert note_of(plan, "Adagrad", optimizer="Adagrad").endswith("batch.lr_rule=sqrt would change it; batch.lr_rule=none keeps it")
    assert not notes_of(plan, "lr_rule", optimizer="Adam")

"""The summary of a plan: its phases cover it, its totals are right, and each warning appears where it should and nowhere else."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from noisescale.plans.duality import CyclicBatch, Dual, Matched
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, Full
from noisescale.plans.summary import PlanSummary, summarize, write_plan
from noisescale.plans.warnings import plan_warnings
from noisescale.schedules import Schedule
from tests.helpers.plans import CUT, TO_THE_FULL_BATCH, N, plan_of, plans

many = settings(deadline=None, max_examples=150)


def notes_of(plan: Plan, words: str = "", weight_decay: float = 0.0, **options: Any) -> list[str]:
    """The warnings that contain `words`."""
    warnings = plan_warnings(summarize(plan, 0.05, **options), options.get("optimizer", "SGD"), weight_decay)
    return [line for line in warnings if words in line]


def note_of(plan: Plan, words: str, **options: Any) -> str:
    found = notes_of(plan, words, **options)
    assert len(found) == 1, found
    return found[0]


# -- any plan can be looked at -------------------------------------------------------------------------------------------------


@many
@given(plan=plans(limited=True), momentum=st.sampled_from([0.0, 0.9]), optimizer=st.sampled_from(["SGD", "Adam"]))
@example(plan=plan_of(CUT, TO_THE_FULL_BATCH), momentum=0.9, optimizer="SGD")  # the noise falls to 0 in a single step
@example(plan=plan_of(CUT, Full(), epochs=1), momentum=0.0, optimizer="SGD")
@example(plan=Plan(schedules.Constant(), Fixed(1), 1, 3), momentum=0.0, optimizer="Adam")
def test_phases_tile_the_plan(plan: Plan, momentum: float, optimizer: str) -> None:
    updates = list(plan)
    summary = summarize(plan, 0.05, momentum, optimizer)
    assert list(summary.updates) == updates
    assert sum(phase.updates for phase in summary.phases) == len(updates)
    assert all(phase.updates > 0 for phase in summary.phases)
    first = 0
    for phase in summary.phases:
        part = updates[first : first + phase.updates]
        full = [u for u in part if u.effective_batch_size == u.planned_batch_size] or part
        assert (phase.first, phase.last) == (full[0], full[-1])
        assert phase.start == part[0].epoch
        first += phase.updates
        assert first == len(updates) or phase.end == updates[first].epoch
    assert summary.phases[-1].end > updates[-1].epoch
    assert all("\n" not in line for line in (*plan_warnings(summary, optimizer, 0.01), summary.comparison()))
    whole = not isinstance(plan.strategy, Matched) and plan.strategy.size_at(0.0, 1.0, plan.num_examples) >= plan.num_examples
    assert (summary.other is None) == whole


@many
@given(plan=plans(), lr=st.floats(1e-3, 10.0))
def test_each_number_is_the_plans(plan: Plan, lr: float) -> None:
    summary = summarize(plan, lr, 0.9)
    for update in summary.updates:
        size = update.effective_batch_size
        assert summary.rate(update) == lr * update.lr_factor
        assert summary.noise(update) == plan.noise(update, lr)
        assert summary.memory(size) == pytest.approx(size / plan.num_examples / 0.1, rel=1e-12)
    assert summary.other_updates == (summary.other.total_updates() if summary.other else 0)


@settings(deadline=None, max_examples=40)
@given(plan=plans(limited=True), lr=st.floats(1e-3, 10.0))
def test_plan_csv_is_the_plan(plan: Plan, lr: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.csv"
    write_plan(summarize(plan, lr), path)
    rows = read_rows(path)
    for row, update in zip(rows, plan, strict=True):
        size = update.effective_batch_size
        numbers = {key: float(value) for key, value in row.items()}
        pieces = [count for rank in range(plan.world_size) for _, count in plan.pieces(update, rank)]
        assert numbers == {
            "step": update.start.step,
            "epoch": update.epoch,
            "examples_seen": update.start.examples_seen,
            "lr": lr * update.lr_factor,
            "effective_batch_size": size,
            "micro_batch_size": max(pieces),
            "accumulate_grad_batches": update.accumulate_grad_batches,
            "g": plan.noise(update, lr),
        }


def test_phases_of_a_cut_are_the_epochs_between_the_cuts() -> None:
    summary = summarize(plan_of(CUT, Fixed(32)), 0.05)
    found = [(phase.start, phase.end, phase.first.lr_factor, phase.updates) for phase in summary.phases]
    assert found == [(0, 10, 1, 410), (10, 15, 0.1, 205), (15, 20, pytest.approx(0.01), 205)]


@pytest.mark.parametrize("last", batching.LAST_WINDOW)
def test_the_last_phase_ends_with_the_training(last: str) -> None:
    for strategy in (Fixed(32, last=last), Full(last=last), Dual(32, rule="sgd", last=last), Fixed(N, last=last)):
        assert summarize(plan_of(schedules.Cosine(), strategy, 3), 0.05).phases[-1].end == 3


def test_a_training_cut_short_ends_where_it_is_cut() -> None:
    plan = plan_of(schedules.Cosine(), Fixed(32), max_updates=10)
    assert summarize(plan, 0.05).phases[-1].end == pytest.approx(320 / N)


# -- totals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (Fixed(32), "820 updates; 466 with the same noise in the batch (batch=dual), 1.8x fewer"),
        (Dual(32, rule="sgd"), "466 updates instead of 820 at B = 32 with the same noise, 1.8x fewer"),
        (batching.Linear(32, 8, 20), r"1 \d\d\d updates instead of 820 at B = 32 with the same noise, \d.\dx more"),
        (Full(), "20 updates"),
    ],
)
def test_totals_are_said_beside_those_of_the_counterpart(strategy: BatchStrategy, line: str) -> None:
    found = summarize(plan_of(schedules.Cosine(), strategy), 0.05).comparison()
    assert re.fullmatch(re.escape(line) if "\\" not in line else line, found), found


def test_a_dual_that_takes_more_updates_is_not_called_fewer() -> None:
    found = summarize(plan_of(schedules.Linear(1, 3), Fixed(32)), 0.05).comparison()
    ratio = float(re.findall(r"([\d.]+)x fewer", found)[0]) if "fewer" in found else 1.0
    assert ratio >= 1.0, found


def test_a_limit_of_updates_is_not_mistaken_for_a_comparison() -> None:
    """Ten updates of a plan and ten of its counterpart are not the same training, so they are not compared."""
    found = summarize(plan_of(schedules.Cosine(), Dual(32, rule="sgd"), max_updates=10), 0.05).comparison()
    assert "10 updates instead of 10" not in found
    assert found.startswith("10 updates")


# -- notes ---------------------------------------------------------------------------------------------------------------------


def test_a_modest_plan_has_no_notes() -> None:
    assert notes_of(plan_of(schedules.Cosine(), Fixed(32, last="carry")), momentum=0.9) == []
    assert notes_of(plan_of(schedules.Inverse(0.05), Dual(32, rule="sgd", last="carry"))) == []


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
        (Dual(32, rule="sgd"), "Adam", True),
        (Dual(32, rule="sgd"), "SGD", False),
        (Dual(32, rule="adaptive"), "SGD", True),
        (Dual(32, rule="adaptive"), "AdamW", False),
        (CyclicBatch(32, 2, rule="sgd"), "RMSprop", True),
        (Dual(32, rule="sgd", growth=0.0), "Adam", False),
        (Fixed(32), "Adam", False),
    ],
)
def test_a_rule_for_another_optimizer(strategy: BatchStrategy, optimizer: str, noted: bool) -> None:
    found = notes_of(plan_of(schedules.Cosine(), strategy), "batch.rule=", optimizer=optimizer)
    assert bool(found) == noted
    assert not noted or optimizer in found[0]


def test_weight_decay_acts_once_per_update() -> None:
    plan = plan_of(schedules.Cosine(), Dual(32, rule="adaptive"))
    assert note_of(plan, "weight_decay=0.01", optimizer="AdamW", weight_decay=0.01)
    assert not notes_of(plan, "weight_decay", optimizer="AdamW")


def test_what_is_kept_is_named() -> None:
    """The line names what is kept. The published batch sizes keep lr N/B, not g."""
    kept = {
        "466 updates instead of 820 at B = 32 with the same noise, 1.8x fewer": Dual(32, rule="sgd"),
        "instead of 820 at B = 32 with the same lr N/B, 1.8x fewer": Dual(32, rule="sgd", match="ratio"),
        "at B = 32 with the same lr sqrt(N/B - 1)": Dual(32, rule="adaptive"),
        "at B = 32 with the same lr sqrt(N/B)": Dual(32, rule="adaptive", match="ratio"),
    }
    for words, strategy in kept.items():
        assert words in summarize(plan_of(schedules.Cosine(), strategy), 0.05).comparison()


# -- the figure ----------------------------------------------------------------------------------------------------------------


def drawn(summary: PlanSummary, title: str, folder: Path) -> tuple[int, int]:
    """Draw the figure, with warnings as errors; returns its width and height in pixels."""
    from noisescale.studies.plan_figure import draw_plan

    path = folder / "plan.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_plan(summary, title, path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert list(folder.iterdir()) == [path], "a partial file was left behind"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(schedules.Cosine(), Fixed(32)),
        plan_of(CUT, Full(), epochs=1),
        Plan(schedules.Constant(), Fixed(1), 1, 1),
        plan_of(schedules.Cosine(), Fixed(32), max_updates=1),
        plan_of(schedules.Polynomial(1, 1), Dual(32, rule="sgd", max_size=N), 3),
        plan_of(schedules.Cosine(), Fixed(32, last="carry"), 1),
    ],
    ids=["usual", "full batch", "one example", "one update", "no noise", "carry"],
)
def test_any_plan_can_be_drawn(plan: Plan, tmp_path: Path) -> None:
    width, height = drawn(summarize(plan, 0.05), "a plan", tmp_path)
    assert 500 <= width <= 2000
    assert 500 <= height <= 2000


def test_a_cut_is_drawn_where_it_is() -> None:
    """The position of a cut is right even if the updates after it are long."""
    from noisescale.studies import plan_figure

    cuts = schedules.MultiStep([30, 60, 80], 0.1)
    summary = summarize(plan_of(cuts, Dual(32, rule="sgd"), 90, num_examples=200_000), 0.1)
    clock, rates, sizes, _ = plan_figure._planned(summary)
    drawn = [t for t, before, after in zip(clock[1:], sizes, sizes[1:], strict=False) if before != after]
    assert drawn == pytest.approx([30, 60, 80], abs=90 / 4000 + 20_000 / 200_000 / 10)
    assert len(clock) == len(rates) <= 4002


@pytest.mark.parametrize("title", ["data.root=$a_b_c$", "hydra.run.dir=$x/{y", "x=" + 50 * "long ", "", "100% \\alpha"])
def test_a_title_is_what_was_typed(title: str, tmp_path: Path) -> None:
    """Dollar signs in a title do not start a formula."""
    assert math.prod(drawn(summarize(plan_of(schedules.Cosine(), Fixed(32), 1), 0.05), title, tmp_path)) > 250_000

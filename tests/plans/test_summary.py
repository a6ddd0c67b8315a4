"""The summary of a plan: its phases cover it, its totals are right, and the line says what they are compared with."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from noisescale.plans.duality import Dual, Matched
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, Full
from noisescale.plans.summary import summarize, write_plan
from noisescale.plans.warnings import plan_warnings
from tests.helpers.plans import CUT, TO_THE_FULL_BATCH, N, plan_of, plans

many = settings(max_examples=150)


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
    assert summary.drift.whole == pytest.approx(sum(summary.rate(update) for update in summary.updates), rel=1e-12)


@settings(max_examples=40)
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


def counted(plan: Plan) -> tuple[int, int]:
    """The updates of the first and of the last epoch."""
    epochs = [plan.epoch_of(update.start) for update in plan]
    return epochs.count(0), epochs.count(epochs[-1])


def test_on_several_devices_the_all_reduces_are_said_beside_those_of_the_counterpart() -> None:
    """The devices average the gradients once per update, so that a growing batch saves communication, too."""
    rate, batch = Fixed(32, last="carry"), Dual(32, rule="sgd", last="carry")
    plans = [plan_of(schedules.Cosine(), strategy, world_size=4, max_micro_batch_size=4) for strategy in (rate, batch)]
    (a, b), (c, d) = map(counted, plans)
    assert (a, b, c, d) == (41, 41, 41, 10)  # 1293 examples in batches of 32, and of 129 at the end
    here, there = (f"all-reduces, one per update: {first} in the first epoch, {last} in the last" for first, last in ((a, b), (c, d)))
    saved = round((809 - plans[1].total_updates()) / 20)
    found = [summarize(plan, 0.05).all_reduces_in_words() for plan in plans]
    assert found == [
        [here, f"batch=dual: {c} and {d}, which saves {saved} per epoch"],
        [there, f"at B = 32: {a} and {b}, so this plan saves {saved} per epoch"],
    ]
    assert max(map(len, (line for lines in found for line in lines))) <= 80


def test_a_batch_that_falls_adds_all_reduces() -> None:
    plan = plan_of(schedules.Constant(), batching.Linear(32, 8, 20), world_size=2)
    saved = round((plan.total_updates() - 820) / 20)
    assert summarize(plan, 0.05).all_reduces_in_words()[1] == f"at B = 32: 41 and 41, so this plan adds {saved} per epoch"


def test_there_are_no_all_reduces_on_one_device_and_no_comparison_without_a_counterpart() -> None:
    assert summarize(plan_of(schedules.Cosine(), Fixed(32)), 0.05).all_reduces_in_words() == []
    alone = [plan_of(schedules.Cosine(), Full(), world_size=2), plan_of(schedules.Cosine(), Fixed(32), world_size=2, max_updates=50)]
    assert [summarize(plan, 0.05).all_reduces_in_words() for plan in alone] == [
        ["all-reduces, one per update: 1 in the first epoch, 1 in the last"],
        ["all-reduces, one per update: 41 in the first epoch, 9 in the last"],
    ]
    same = summarize(plan_of(schedules.Constant(), Fixed(32), world_size=2), 0.05).all_reduces_in_words()
    assert same[1] == "batch=dual: 41 and 41"


# -- the drift -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "late"),
    [
        (Fixed(32), 0.5125),
        (Dual(32, rule="sgd"), 0.5614),
        (Dual(32, rule="sgd", max_size=N), 0.7540),
        (Dual(32, rule="sgd", match="ratio"), 0.5183),
    ],
)
def test_equal_noise_has_another_drift_where_b_comes_close_to_n_and_ratio_keeps_it(strategy: BatchStrategy, late: float) -> None:
    """Epochs 15 to 20 of a cosine."""
    assert summarize(plan_of(schedules.Cosine(), strategy), 0.05).drift.last_quarter == pytest.approx(late, abs=5e-5)


def test_the_drift_is_said_beside_that_of_the_counterpart() -> None:
    rate, batch = Fixed(32, last="carry"), Dual(32, rule="sgd", last="carry", max_size=N)
    words = [summarize(plan_of(schedules.Cosine(), strategy), 0.05).drift_in_words() for strategy in (rate, batch)]
    assert words == [
        "sum of lr: 20.23 (last quarter 0.5005); batch=dual: 20.55 (0.5391)",
        "sum of lr: 20.79 (last quarter 0.7499); at B = 32: 20.23 (0.5005)",
    ]
    assert max(map(len, words)) <= 80


def test_a_plan_without_a_counterpart_of_its_length_has_its_own_drift_only() -> None:
    full, cut_short = plan_of(schedules.Constant(), Full(), epochs=4), plan_of(schedules.Constant(), Fixed(32), max_updates=4)
    for plan in (full, cut_short):
        assert summarize(plan, 0.05).drift_in_words() == "sum of lr: 0.2 (last quarter 0.05)"


@pytest.mark.parametrize("strategy", [Fixed(32), Dual(32, rule="adaptive")])
def test_adagrad_has_no_counterpart(strategy: BatchStrategy) -> None:
    """Its noise hardly depends on the batch, so that the batch cannot carry it."""
    summary = summarize(plan_of(schedules.Cosine(), strategy), 0.01, optimizer="Adagrad")
    assert summary.other is None
    assert re.fullmatch(r"\d+ updates", summary.comparison())
    assert summarize(plan_of(schedules.Cosine(), strategy), 0.01, optimizer="Adadelta").other is not None


@pytest.mark.parametrize(("match", "share"), [("ratio", 0.6), ("exact", 0.6 + (1 - 0.6) * 0.1)])
def test_the_dual_takes_the_mean_of_s_of_the_updates_and_exact_a_little_more(match: str, share: float) -> None:
    """N/B is s N/B0 for ratio and 1 + s (N/B0 - 1) for exact, a share of s + (1 - s) B0/N. Here the mean of s is .6, and B0/N = .1."""
    dual = Dual(10_000, rule="sgd", match=match, max_size=100_000, last="carry")
    plan = plan_of(schedules.Cosine(eta_min=0.2), dual, epochs=100, num_examples=100_000)
    assert plan.total_updates() == pytest.approx(1000 * share, rel=5e-3)


@pytest.mark.parametrize(("optimizer", "said"), [("SGD", "with the same noise,"), ("Adam", "with the same g,")])
def test_what_a_plan_and_its_counterpart_share_is_called_noise_only_where_it_is_that_of_the_optimizer(optimizer: str, said: str) -> None:
    plan = Plan(schedules.Cosine(T_max=4), Dual(8, rule="sgd"), 400, 4)
    assert said in summarize(plan, 0.1, optimizer=optimizer).comparison()

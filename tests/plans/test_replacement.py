"""With replacement: the noise compared with an enumeration of all batches, and what a plan, its dual and its files make of it."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.files import read_rows
from noisescale.plans.duality import CyclicBatch, Dual, counterpart
from noisescale.plans.noise import batch_noise, sgd_noise_scale
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import LAST_WINDOW, BatchStrategy, Fixed, Full, Linear, MultiStep
from noisescale.plans.summary import summarize, write_plan
from noisescale.plans.trainer_limits import plan_for_trainer
from noisescale.plans.warnings import plan_warnings
from noisescale.studies.plan_table import print_plan
from tests.helpers.refusals import error_of

N = 200


def plan_of(strategy: BatchStrategy, schedule: schedules.Schedule | None = None, epochs: int = 3) -> Plan:
    return Plan(schedule or schedules.Constant(), strategy, N, epochs, replacement=True)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [1, 2, 3, 4], [5, 1, 0, 1]])
def test_g_is_the_variance_of_a_batch_of_independent_draws(weights: list[int]) -> None:
    """Var(mean of B draws) = s2/B, exactly, over ALL batches, for the variance s2 of one draw. So lr N Var / s2 is g, also at B = N."""
    population = [3, 1, 4, 15]
    n, p = sum(w > 0 for w in weights), [Fraction(w, sum(weights)) for w in weights]
    mean = sum(q * x for q, x in zip(p, population, strict=True))
    s2 = sum(q * (x - mean) ** 2 for q, x in zip(p, population, strict=True))
    for b in range(1, n + 1):
        batches = product(range(4), repeat=b)
        variance = sum(
            prod((p[i] for i in batch), start=Fraction(1)) * (Fraction(sum(population[i] for i in batch), b) - mean) ** 2
            for batch in batches
        )
        assert variance == s2 / b
        assert sgd_noise_scale(0.1, n, b, replacement=True) == pytest.approx(float(Fraction(1, 10) * n * variance / s2), rel=1e-14)
        assert sgd_noise_scale(0.1, n, b, replacement=True) == pytest.approx(0.1 * batch_noise("ratio", n, b), rel=1e-15)
        assert sgd_noise_scale(0.1, n, b, replacement=True) > sgd_noise_scale(0.1, n, b)


STRATEGIES = [
    Fixed(64),
    Full(),
    MultiStep(10, [1.5], 4),
    Linear(7, 150, 2),
    Dual(32, rule="sgd", match="ratio"),
    CyclicBatch(32, 0.5, rule="sgd", match="ratio"),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_every_update_of_a_plan_has_lr_n_over_b(strategy: BatchStrategy, tmp_path: Path) -> None:
    plan = plan_of(strategy, schedules.Cosine(3))
    updates = list(plan)
    assert [plan.noise(u, 0.3) for u in updates] == pytest.approx([0.3 * u.lr_factor * N / u.effective_batch_size for u in updates])
    write_plan(summarize(plan, 0.3), tmp_path / "plan.csv")
    assert [float(row["g"]) for row in read_rows(tmp_path / "plan.csv")] == [plan.noise(u, 0.3) for u in updates]
    without = Plan(plan.schedule, strategy, N, plan.epochs)
    assert updates == list(without)  # only the noise differs
    assert [plan.noise(u, 0.3) - without.noise(u, 0.3) for u in updates] == pytest.approx([0.3 * u.lr_factor for u in updates], rel=1e-9)


@pytest.mark.parametrize("last", LAST_WINDOW)
def test_match_last_keeps_that_noise(last: str) -> None:
    plan = plan_of(Fixed(64, last=last, match_last=True))
    noises = [plan.noise(update, 0.1) for update in plan]
    assert noises == pytest.approx([0.1 * N / 64] * len(noises), rel=1e-12)
    assert {u.effective_batch_size for u in plan} == {"carry": {64}, "drop": {64}, "partial": {64, 8}, "spread": {50}}[last]


@pytest.mark.parametrize("strategy", [Dual(32, rule="sgd"), CyclicBatch(32, 0.5, rule="adaptive")], ids=lambda s: type(s).__name__)
def test_a_dual_of_the_other_noise_is_refused(strategy: BatchStrategy) -> None:
    error_of(lambda: plan_of(strategy), "match", "exact", "without replacement", "ratio")
    error_of(lambda: plan_for_trainer(schedules.Constant(), strategy, N, optimizer="SGD", max_epochs=3, replacement=True), "match", "ratio")
    Plan(schedules.Constant(), strategy, N, 3)


@given(size=st.integers(1, N - 1), factor=st.floats(0.01, 1.0), growth=st.floats(0.0, 1.0))
def test_the_dual_has_the_noise_of_the_schedule(size: int, factor: float, growth: float) -> None:
    dual = Dual(size, rule="sgd", match="ratio", growth=growth, max_size=N)
    plan = plan_of(dual, schedules.MultiStep([1], factor), 2)
    expected = [0.1 * N / size * (1.0 if update.epoch < 1 else factor) for update in plan]
    assert [plan.noise(update, 0.1) for update in plan] == pytest.approx(expected, rel=1e-12)


def test_the_counterpart_has_the_same_g_and_is_drawn_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(Fixed(8), schedules.MultiStep([1, 2], 0.5))
    dual = counterpart(plan)
    assert dual is not None
    assert dual.replacement
    assert isinstance(dual.strategy, Dual)
    assert {round(dual.noise(u, 0.1), 9) for u in dual} == {round(plan.noise(u, 0.1), 9) for u in plan} == {2.5, 1.25, 0.625}
    back = counterpart(dual)
    assert back is not None
    assert {round(back.noise(u, 0.1), 9) for u in back} == {2.5, 1.25, 0.625}
    grown = counterpart(plan_of(MultiStep(10, [1], 4)))
    assert grown is not None
    assert {round(grown.noise(u, 0.1), 9) for u in grown} == {2.0, 0.5}
    summary = summarize(plan, 0.1)
    assert summary.keeps_g
    print_plan(summary)
    assert "N = 200, drawn with replacement, 3 epochs" in capsys.readouterr().out


def test_how_much_more_noise_a_small_window_has() -> None:
    (note,) = [note for note in plan_warnings(summarize(plan_of(Fixed(64, last="partial")), 0.1)) if "the window" in note]
    assert "8 of 64 examples, 8x the noise" in note  # without replacement: (200/8 - 1) / (200/64 - 1) = 11.3

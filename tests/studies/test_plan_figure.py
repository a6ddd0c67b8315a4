"""The figure of a plan: any plan can be drawn, and its curves are right."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest

from noisescale import schedules
from noisescale.plans.duality import Dual
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import Fixed, Full
from noisescale.plans.summary import PlanSummary, summarize
from tests.helpers.plans import CUT, N, plan_of


def drawn(summary: PlanSummary, title: str, folder: Path) -> tuple[int, int]:
    """Draw the figure, with warnings as errors; returns its width and height in pixels."""
    from noisescale.studies.plan_figure import draw_plan

    path = folder / "plan.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_plan(summary, title, path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert list(folder.iterdir()) == [path], "a part of it was left behind"
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


@pytest.mark.slow
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

"""A plan is read once, some stretches at a time: what is found does not depend on how many, and can be looked up again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans import survey as surveying
from noisescale.plans.drift import ExactSum
from noisescale.plans.duality import Dual
from noisescale.plans.plan import Plan, Stretch
from noisescale.plans.strategies import Fixed
from noisescale.plans.summary import PlanSummary, summarize
from noisescale.plans.survey import survey
from noisescale.plans.updates_of_epochs import UpdatesOfEpochs
from noisescale.plans.warnings import cap_warnings, plan_warnings
from tests.helpers.plans import N, plan_of, plans
from tests.helpers.processes import python

some = settings(max_examples=60)


def everything(summary: PlanSummary) -> list[object]:
    """All that is shown of a plan."""
    of_epochs = [(each.first, each.last) for each in (summary.epochs, summary.other_epochs) if summary.other is not None]
    found = [summary.total, summary.other_updates, summary.phases, summary.shown, summary.drift, summary.other_drift, *of_epochs]
    return [*found, plan_warnings(summary), cap_warnings(summary.plan), summary.sizes.smallest, summary.sizes.largest]


@some
@given(plan=plans(limited=True), chunk=st.integers(1, 7))
def test_what_is_found_does_not_depend_on_how_much_is_read_at_once(plan: Plan, chunk: int) -> None:
    whole = everything(summarize(plan, 0.05, 0.9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "_CHUNK", chunk)
        assert everything(summarize(plan, 0.05, 0.9)) == whole


@some
@given(plan=plans(limited=True), chunk=st.integers(1, 7), data=st.data())
def test_any_update_is_found_again(plan: Plan, chunk: int, data: st.DataObject) -> None:
    updates = list(plan)
    start = data.draw(st.integers(0, len(updates) - 1))
    stop = data.draw(st.integers(start + 1, len(updates)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "_CHUNK", chunk)
        marks = survey(plan, [])
    assert marks.updates == len(updates)
    assert marks.end == plan.end() == pytest.approx(min(plan.epochs or math.inf, plan.after(updates[-1]).position / plan.num_examples))
    assert marks.update(start) == updates[start]
    assert marks.start_of(start) == updates[start].epoch
    assert marks.start_of(len(updates)) == marks.end
    full = [update for update in updates[start:stop] if update.effective_batch_size == update.planned_batch_size] or updates[start:stop]
    assert marks.ends_of(start, stop) == (full[0], full[-1])
    epoch = updates[start].epoch
    assert marks.first_where(lambda found: found >= epoch, stop) == start
    assert marks.first_where(lambda found: found > epoch, stop) == min(start + 1, stop)


def test_readers_see_every_stretch_once() -> None:
    plan, seen = plan_of(schedules.Cosine(), Fixed(1), 3), list[Stretch]()
    shares = list[float]()
    marks = survey(plan, [seen.extend], shares.append)
    assert seen == list(plan.stretches())
    assert marks.updates == len(seen) == 3 * N
    assert len(shares) == len(marks.places) == 4
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1


@pytest.mark.parametrize("limits", [{}, {"max_updates": 700}])
def test_the_progress_goes_from_0_to_1(limits: dict[str, int]) -> None:
    shares = list[float]()
    summarize(plan_of(schedules.Cosine(), Dual(2, rule="sgd"), 5, **limits), 0.05, progress=shares.append)
    assert shares == sorted(shares)
    assert 0.99 < shares[-1] <= 1


@some
@given(plan=plans(limited=True))
def test_the_updates_of_the_first_and_the_last_epoch(plan: Plan) -> None:
    counts = UpdatesOfEpochs()
    survey(plan, [counts])
    epochs = [plan.epoch_of(update.start) for update in plan]
    assert (counts.first, counts.last) == (epochs.count(epochs[0]), epochs.count(epochs[-1]))


# -- sums ----------------------------------------------------------------------------------------------------------------------

FINITE = st.floats(-1e300, 1e300)


@some
@given(parts=st.lists(st.lists(FINITE, max_size=8), max_size=8))
@example(parts=[[1e16, 1.0], [1.0], [-1e16]])
@example(parts=[[0.1] * 10, [], [-1.0]])
def test_a_sum_in_parts_is_rounded_once(parts: list[list[float]]) -> None:
    total = ExactSum()
    for part in parts:
        total.add(part)
    assert total.value() == math.fsum(value for part in parts for value in part)


def test_the_drift_of_equal_updates_is_that_of_each_added_up() -> None:
    """0.1 added 1293 times is not 129.3 in floats, and 1293 times 0.1 is: what counts is the exact sum of the 0.1 that floats have."""
    plan = plan_of(schedules.MultiStep([1, 2.2], 0.1), Fixed(1, last="carry"), 3)
    for here in (plan, replace(plan, max_updates=3001), replace(plan, strategy=Fixed(5, last="spread", match_last=True))):
        factors = [update.lr_factor for update in here]
        late = [update.lr_factor for update in here if update.epoch >= 0.75 * here.end()]
        drift = summarize(here, 0.3).drift
        assert drift == (0.3 * math.fsum(factors), 0.3 * math.fsum(late))


# -- size ----------------------------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
from noisescale.plans import Dual, Fixed, Plan
from noisescale.plans.summary import summarize, write_plan
from noisescale.plans.warnings import plan_warnings
from noisescale.schedules import Constant, Cosine
schedule = {"constant": Constant(), "cosine": Cosine(), "dual": Cosine()}[sys.argv[1]].with_horizon(10)
strategy = Dual(10, rule="sgd", last="carry") if sys.argv[1] == "dual" else Fixed(10, last="carry")
summary = summarize(Plan(schedule, strategy, int(sys.argv[2]), 10, min_micro_batch_size=2), 0.1, 0.9)
plan_warnings(summary)
write_plan(summary, Path(sys.argv[3]))
print(summary.total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["constant", "cosine", "dual"])
def test_the_memory_does_not_grow_with_the_plan(kind: str, tmp_path: Path) -> None:
    """The peak of a million updates, their warnings and their plan.csv of 80 MB is that of ten thousand and a few MB, in KiB."""
    peaks, totals = [], []
    for examples in (10_000, 1_000_000):
        done = python("-c", PEAK, kind, str(examples), str(tmp_path / "plan.csv"))
        assert done.returncode == 0, done.stderr
        total, peak = map(int, done.stdout.split())
        totals.append(total)
        peaks.append(peak)
    assert totals[1] > 50 * totals[0] > 200_000
    assert peaks[1] - peaks[0] < 6 * 1024, peaks

"""The plan: what each pass covers, how a window is cut; with random schedules, strategies, devices and limits."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.errors import ConfigError
from noisescale.plans.duality import Matched
from noisescale.plans.plan import Cursor, Plan, Update
from noisescale.plans.strategies import LAST_WINDOW, Fixed, MultiStep
from noisescale.schedules import Constant, warmup_and_rest
from tests.helpers.plans import passes, plans

many = settings(max_examples=150)


def planned_size(plan: Plan, update: Update) -> int:
    """B as the strategy sets it, before the end of the pass makes it smaller."""
    return plan.strategy(update.epoch, warmup_and_rest(plan.schedule, update.epoch)[1], plan.num_examples).size


def windows(plan: Plan) -> list[tuple[int, int]]:
    """(first position, first position after it) of each update."""
    return [(u.start.position, u.start.position + u.effective_batch_size) for u in plan]


# -- rows ---------------------------------------------------------------------------------------------------------------------


@many
@given(plan=plans(limited=True))
def test_row_k_is_a_function_of_the_clock_at_its_start(plan: Plan) -> None:
    seen = 0
    for k, update in enumerate(plan):
        epoch = update.start.position / plan.num_examples
        warmup, factor = warmup_and_rest(plan.schedule, epoch)
        choice = plan.strategy(epoch, factor, plan.num_examples, warmup)
        assert (update.start.step, update.start.examples_seen) == (k, seen)
        assert update.epoch == epoch
        assert update.planned_batch_size == choice.size
        assert 1 <= update.effective_batch_size <= choice.size
        if update.effective_batch_size == choice.size or not plan.strategy.match_last:
            assert update.lr_factor == choice.lr_factor
        seen += update.effective_batch_size


@many
@given(plan=plans(), match_last=st.booleans())
def test_with_match_last_a_smaller_window_has_the_noise_of_a_full_one(plan: Plan, match_last: bool) -> None:
    """The noise is lr n(B)^p, for SGD and match=exact g itself. Without match_last the learning rate is that of a full window."""
    plan = replace(plan, strategy=replace(plan.strategy, match_last=match_last))
    strategy, n = plan.strategy, plan.num_examples
    rule, match = (strategy.rule, strategy.match) if isinstance(strategy, Matched) else ("sgd", "exact")

    def noise(rate: float, size: int) -> float:
        return rate * math.pow(Fraction(n, size) - (match == "exact"), 0.5 if rule == "adaptive" else 1.0)

    for update in plan:
        warmup, factor = warmup_and_rest(plan.schedule, update.epoch)
        size, rate = strategy(update.epoch, factor, n, warmup)
        if update.effective_batch_size < size:
            if match_last:
                assert noise(update.lr_factor, update.effective_batch_size) == pytest.approx(noise(rate, size), rel=1e-12, abs=0)
                assert update.lr_factor < rate or rate == 0
            else:
                assert update.lr_factor == rate


@pytest.mark.parametrize("last", LAST_WINDOW)
def test_match_last_by_hand(last: str) -> None:
    """N = 10, B = 4: n(B) is 10/2 - 1 = 4 for a window of 2, 7/3 for one of 3, and 1.5 for one of 4."""
    plan = Plan(Constant(), Fixed(4, last=last, match_last=True), 10, 1)
    factors: dict[str, list[float]] = {"partial": [1, 1, 1.5 / 4], "spread": [1, 4.5 / 7, 4.5 / 7], "drop": [1, 1], "carry": [1, 1, 1]}
    assert [u.lr_factor for u in plan] == pytest.approx(factors[last], rel=1e-15)
    assert [plan.noise(u, 0.1) for u in plan] == pytest.approx([0.15] * len(factors[last]), rel=1e-15)


def test_a_cut_at_an_epoch_holds_from_the_first_update_of_that_epoch() -> None:
    strategy = MultiStep(2, [2], 2)
    rows = [(u.epoch, u.effective_batch_size, u.lr_factor) for u in Plan(schedules.MultiStep([1], 0.1), strategy, 4, 3)]
    assert rows == [(0, 2, 1), (0.5, 2, 1), (1, 2, 0.1), (1.5, 2, 0.1), (2, 4, 0.1)]


@many
@given(plan=plans(), lr=st.floats(1e-3, 10))
def test_the_noise_of_a_row_is_that_of_its_own_rate_and_batch(plan: Plan, lr: float) -> None:
    for update in plan:
        g = lr * update.lr_factor * (plan.num_examples / update.effective_batch_size - 1)
        assert plan.noise(update, lr) == pytest.approx(g, rel=1e-9, abs=1e-12)


# -- what a pass covers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["partial", "spread"])
@many
@given(data=st.data())
def test_partial_and_spread_take_each_example_once_per_pass(last: str, data: st.DataObject) -> None:
    plan = data.draw(plans(last))
    n = plan.num_examples
    taken = windows(plan)
    assert [start for start, _ in taken] == [0, *(end for _, end in taken[:-1])]
    assert taken[-1][1] == n * (plan.epochs or 0)
    assert all((end - 1) // n == start // n for start, end in taken), "a window crosses the end of its pass"
    for updates in passes(plan):
        assert sum(update.effective_batch_size for update in updates) == n


@many
@given(plan=plans("partial"))
def test_partial_cuts_only_the_last_window_of_a_pass(plan: Plan) -> None:
    for updates in passes(plan):
        *others, final = updates
        assert all(update.effective_batch_size == planned_size(plan, update) for update in others)
        remaining = plan.num_examples - final.start.position % plan.num_examples
        assert final.effective_batch_size == remaining <= planned_size(plan, final)


@many
@given(plan=plans("spread"))
def test_spread_never_exceeds_the_planned_size(plan: Plan) -> None:
    assert all(update.effective_batch_size <= planned_size(plan, update) for update in plan)


@many
@given(n=st.integers(1, 2000), data=st.data())
def test_spread_of_a_constant_size_is_near_equal_in_as_few_windows_as_possible(n: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n))
    for updates in passes(Plan(Constant(), Fixed(size, last="spread"), n, 2)):
        taken = [update.effective_batch_size for update in updates]
        assert len(taken) == math.ceil(n / size)
        assert max(taken) <= size
        assert max(taken) - min(taken) <= 1


@many
@given(plan=plans("drop"))
def test_drop_leaves_out_less_than_a_batch_and_goes_on_at_the_next_whole_epoch(plan: Plan) -> None:
    n, updates = plan.num_examples, list(plan)
    assert all(update.effective_batch_size == planned_size(plan, update) for update in updates)
    ends = [plan.after(update) for update in updates]
    assert [cursor.position for cursor in ends[:-1]] == [update.start.position for update in updates[1:]]
    assert ends[-1].position == n * (plan.epochs or 0)
    for update, cursor in zip(updates, ends, strict=True):
        end = update.start.position + update.effective_batch_size
        assert end <= (plan.epoch_of(update.start) + 1) * n
        dropped = cursor.position - end
        if dropped:
            assert cursor.position % n == 0
            assert dropped < plan.strategy(end / n, plan.schedule(end / n), n).size
    assert ends[-1].examples_seen == sum(update.effective_batch_size for update in updates)


@many
@given(plan=plans("carry"))
def test_carry_takes_every_batch_as_planned_without_a_gap_to_the_first_boundary_past_the_end(plan: Plan) -> None:
    updates, taken, end = list(plan), windows(plan), plan.num_examples * (plan.epochs or 0)
    assert all(update.effective_batch_size == planned_size(plan, update) for update in updates)
    assert [start for start, _ in taken] == [0, *(end for _, end in taken[:-1])]
    assert taken[-1][0] < end <= taken[-1][1]
    assert plan.after(updates[-1]).examples_seen == taken[-1][1]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("partial", [(0, 4), (4, 8), (8, 10), (10, 14), (14, 18), (18, 20)]),
        ("drop", [(0, 4), (4, 8), (10, 14), (14, 18)]),
        ("carry", [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20)]),
        ("spread", [(0, 4), (4, 7), (7, 10), (10, 14), (14, 17), (17, 20)]),
    ],
)
def test_two_passes_of_ten_in_fours(last: str, expected: list[tuple[int, int]]) -> None:
    assert windows(Plan(Constant(), Fixed(4, last=last), 10, 2)) == expected


# -- how a window is cut ------------------------------------------------------------------------------------------------------


def limit_of(plan: Plan) -> int | None:
    return min((limit for limit in (plan.max_micro_batch_size, plan.strategy.micro_batch_size) if limit is not None), default=None)


@many
@given(plan=plans())
def test_the_pieces_of_all_devices_tile_the_window_near_equally(plan: Plan) -> None:
    limit, world = limit_of(plan), plan.world_size
    for update in plan:
        size, k = update.effective_batch_size, update.accumulate_grad_batches
        of_rank = [plan.pieces(update, rank) for rank in range(world)]
        assert [len(pieces) for pieces in of_rank] == [k] * world
        in_order = [of_rank[rank][j] for j in range(k) for rank in range(world)]  # micro-batch j of rank r is piece j W + r
        assert in_order[0][0] == update.start.position
        assert all(start + count == following for (start, count), (following, _) in pairwise(in_order))
        counts = [count for _, count in in_order]
        assert sum(counts) == size
        assert max(counts) - min(counts) <= 1
        assert min(counts) > 0 or size < world or limit == 1
        assert limit is None or max(counts) <= limit


@many
@given(plan=plans())
def test_as_few_micro_batches_as_the_limit_allows(plan: Plan) -> None:
    limit = limit_of(plan)
    for update in plan:
        fewer = (update.accumulate_grad_batches - 1) * plan.world_size
        assert fewer == 0 or (limit is not None and math.ceil(update.effective_batch_size / fewer) > limit)


@many
@given(plan=plans(limited=True), world=st.integers(1, 8), limit=st.none() | st.integers(1, 20))
def test_devices_and_memory_change_neither_batch_nor_rate_nor_examples(plan: Plan, world: int, limit: int | None) -> None:
    def what_matters(plan: Plan) -> list[tuple[Cursor, float, int, float]]:
        return [(u.start, u.epoch, u.effective_batch_size, u.lr_factor) for u in plan]

    assert what_matters(replace(plan, world_size=world, max_micro_batch_size=limit)) == what_matters(plan)


@pytest.mark.parametrize(
    ("size", "world", "limit", "words"),
    [
        (512, 2, 64, "effective 512 = 64 micro x 4 accumulate x 2 devices"),
        (512, 1, None, "effective 512 = 512 micro x 1 accumulate x 1 device"),
        (100, 1, 32, "effective 100 = 25 micro x 4 accumulate x 1 device"),
        (100, 3, 32, "effective 100 ~ 17 micro x 2 accumulate x 3 devices"),
        (2, 4, None, "effective 2 ~ 1 micro x 1 accumulate x 4 devices"),
    ],
)
def test_in_words(size: int, world: int, limit: int | None, words: str) -> None:
    plan = Plan(Constant(), Fixed(size), 1000, 1, world_size=world, max_micro_batch_size=limit)
    assert plan.in_words(next(iter(plan))) == words


# -- refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_examples", "epochs", "world_size", "max_micro_batch_size", "max_updates", "max_updates_per_epoch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"], ids=repr)
def test_a_count_that_is_not_positive_and_whole_is_refused(key: str, value: Any) -> None:
    options = {"schedule": Constant(), "strategy": Fixed(1), "num_examples": 10, "epochs": 1, key: value}
    with pytest.raises(ConfigError, match=rf"^{key}={value}: must be a whole number.*, at least 1$"):
        Plan(**options)


def test_a_batch_beyond_n_is_refused_before_the_first_update() -> None:
    with pytest.raises(ConfigError, match=r"^size=11: must be at most N = 10, the examples of one pass; use batch=full for all of them$"):
        Plan(Constant(), Fixed(11), 10, 1)


def test_a_schedule_without_a_horizon_is_refused_at_the_first_update() -> None:
    with pytest.raises(ConfigError, match=r"^T_max=null: the horizon is not set yet"):
        next(iter(Plan(schedules.Cosine(), Fixed(1), 10, 1)))

"""How an update is cut into micro-batches: near equal, within the limit, and without a single example where batch norm needs two."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans.cutting import count_parts, cut, smallest_group, split_evenly
from noisescale.plans.duality import Dual
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy, Fixed, Full, Linear, MultiStep
from noisescale.plans.trainer_limits import check_pieces, plan_for_trainer
from noisescale.schedules import Constant
from tests.helpers.plans import plans
from tests.helpers.refusals import error_of, refusal_of

many = settings(max_examples=150)

LIMITED = [(ghost, limit) for ghost in (1, 2, 3, 4, 8) for limit in (None, *range(ghost, 25, ghost))]


@given(total=st.integers(0, 10**6), parts=st.integers(1, 1000))
def test_an_even_split(total: int, parts: int) -> None:
    sizes = split_evenly(total, parts)
    assert (len(sizes), sum(sizes)) == (parts, total)
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


def ghost_batches(size: int, ghost: int) -> list[int]:
    """The groups that are normalised together, as ghost batch norm forms them with `tensor_split`."""
    return [size] if ghost == 1 else split_evenly(size, math.ceil(size / ghost))


@cache
def can_be_cut(size: int, parts: int, ghost: int, limit: int) -> bool:
    """Brute force: whether at most `parts` pieces of at most `limit` examples, whose groups have two examples or more, sum to `size`."""
    if size == 0 or parts == 0:
        return size == 0
    pieces = (piece for piece in range(1, min(size, limit) + 1) if min(ghost_batches(piece, ghost)) >= 2)
    return any(can_be_cut(size - piece, parts - 1, ghost, limit) for piece in pieces)


@pytest.mark.parametrize(("ghost", "limit"), LIMITED)
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_no_single_example_wherever_any_cut_avoids_it(ghost: int, limit: int | None, devices: int) -> None:
    for size in range(1, 26):
        k = count_parts(size, devices, ghost, limit)
        sizes = cut(size, k * devices, ghost, 2, limit)
        assert bool(sizes) == can_be_cut(size, k * devices, ghost, limit or size)
        if sizes:
            assert (len(sizes), sum(sizes)) == (k * devices, size)
            assert max(sizes) <= (limit or size)
            assert list(sizes) == sorted(sizes, reverse=True)  # the empty ones last: the first device always has examples
            assert all(min(ghost_batches(each, ghost)) >= 2 for each in sizes if each)


@pytest.mark.parametrize(("ghost", "limit"), LIMITED)
def test_a_cut_is_changed_only_where_it_has_a_single_example(ghost: int, limit: int | None) -> None:
    for size in range(1, 60):
        parts = 2 * count_parts(size, 2, ghost, limit)
        free, bound = cut(size, parts, ghost, 1, limit), cut(size, parts, ghost, 2, limit)
        assert sum(free) == size
        assert bound in ((), free) or any(min(ghost_batches(each, ghost)) < 2 for each in free if each)


@pytest.mark.parametrize("ghost", [1, 2, 3, 5, 8])
def test_the_smallest_group_is_that_of_ghost_batch_norm(ghost: int) -> None:
    assert [smallest_group(n, ghost) for n in range(1, 50)] == [min(ghost_batches(n, ghost)) for n in range(1, 50)]


@pytest.mark.parametrize(
    ("size", "devices", "ghost", "limit", "sizes"),
    [
        (3, 2, 1, None, (3, 0)),  # 2 + 1 would leave the second device with one example
        (2, 4, 1, None, (2, 0, 0, 0)),
        (7, 2, 1, 3, (3, 2, 2, 0)),
        (9, 1, 8, 8, (7, 2)),  # instead of 8 + 1
        (17, 1, 8, 16, (15, 2)),
        (9, 1, 8, None, (9,)),  # as ghost batches of 5 and 4
        (5, 1, 2, None, ()),  # ghost batches of at most 2 cannot hold an odd number
        (5, 1, 1, 2, ()),
        (1, 1, 1, None, ()),
    ],
)
def test_by_hand(size: int, devices: int, ghost: int, limit: int | None, sizes: tuple[int, ...]) -> None:
    assert cut(size, devices * count_parts(size, devices, ghost, limit), ghost, 2, limit) == sizes


# -- in a plan ----------------------------------------------------------------------------------------------------------------


@many
@given(plan=plans(), ghost=st.sampled_from([1, 1, 3, 4]))
def test_every_plan_that_is_accepted_has_two_examples_in_each_piece(plan: Plan, ghost: int) -> None:
    from noisescale.errors import ConfigError

    try:
        bound = replace(plan, micro_batch_multiple=ghost, min_micro_batch_size=2)
        check_pieces(bound)
    except ConfigError:
        return
    for update, free in zip(bound, replace(bound, min_micro_batch_size=1), strict=True):
        of_rank = [bound.pieces(update, rank) for rank in range(bound.world_size)]
        assert update == free, "neither the batch nor the number of micro-batches depends on batch norm"
        in_order = [of_rank[rank][j] for j in range(update.accumulate_grad_batches) for rank in range(bound.world_size)]
        assert in_order[0][0] == update.start.position
        assert all(start + count == following for (start, count), (following, _) in pairwise(in_order))
        counts = [count for _, count in in_order]
        assert sum(counts) == update.effective_batch_size
        assert 1 not in counts
        assert all(min(ghost_batches(count, ghost)) >= 2 for count in counts if count)


@many
@given(plan=plans())
def test_with_three_examples_or_no_limit_only_an_update_of_one_is_refused(plan: Plan) -> None:
    limit = None if plan.max_micro_batch_size is None else max(3, plan.max_micro_batch_size)
    plan = replace(plan, max_micro_batch_size=limit, min_micro_batch_size=2, strategy=replace(plan.strategy, micro_batch_size=None))
    refused = [update.start.step for update in plan if update.effective_batch_size == 1]
    if not refused:
        check_pieces(plan)
    else:
        assert f"update {refused[0]} has 1 example, and batch norm needs at least 2" in refusal_of(lambda: check_pieces(plan))


N = 1293  # 323 x 4 + 1


def planned(strategy: BatchStrategy, n: int = N, **options: int | None) -> Plan:
    return plan_for_trainer(
        Constant(),
        strategy,
        n,
        **{"optimizer": "SGD", "max_epochs": 3, "min_micro_batch_size": 2, **options},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("last", ["carry", "drop", "spread"])
def test_one_example_at_the_end_of_a_pass_is_no_trouble_with(last: str) -> None:
    assert min(update.effective_batch_size for update in planned(Fixed(4, last=last))) > 1


@pytest.mark.parametrize(
    ("strategy", "options", "line"),
    [
        (
            Fixed(4),
            {},
            "last=partial: update 323 has 1 example, and batch norm needs at least 2; use carry, drop or spread, or another size",
        ),
        (Fixed(2), {}, "last=partial: update 646 has 1 example, and batch norm needs at least 2; use carry or drop, or another size"),
        (
            MultiStep(8, [1, 2], 2, last="partial"),
            {"n": 17},
            "last=partial: update 2 has 1 example, and batch norm needs at least 2; use carry, drop or spread, or another size",
        ),
        (
            Fixed(2, last="spread"),
            {},
            "last=spread: update 646 has 1 example, and batch norm needs at least 2; use carry or drop, or another size",
        ),
        (Fixed(1), {}, "size=1: update 0 has 1 example, and batch norm needs at least 2; raise it, or use a model without batch norm"),
        (Full(), {"n": 1}, "size=1: update 0 has 1 example, and batch norm needs at least 2; raise it, or use a model without batch norm"),
        (
            Fixed(32),
            {"max_micro_batch_size": 1},
            "max_micro_batch_size=1: batch norm needs at least 2 examples in a micro-batch; use 3 or more",
        ),
        (Fixed(32, micro_batch_size=1), {}, "micro_batch_size=1: batch norm needs at least 2 examples in a micro-batch; use 3 or more"),
        (
            Fixed(32),
            {"max_micro_batch_size": 2},
            "max_micro_batch_size=2: update 40 has 13 examples, which cannot be cut into micro-batches of at least 2, as batch norm needs; "
            "use 3 or more",
        ),
        (
            Fixed(32, micro_batch_size=2, last="spread"),
            {},
            "micro_batch_size=2: update 22 has 31 examples, which cannot be cut into micro-batches of at least 2, as batch norm needs; "
            "use 3 or more",
        ),
        (
            Fixed(32),
            {"micro_batch_multiple": 2},
            "micro_batch_multiple=2: update 40 has 13 examples, and one of its ghost batches would have fewer than the 2 that batch norm "
            "needs; use larger ones, or a batch that is a multiple",
        ),
        (
            Linear(2, 1, 2, last="carry"),
            {"n": 10},
            "size=2: update 6 has 1 example, and batch norm needs at least 2; raise it, or use a model without batch norm",
        ),
    ],
)
def test_what_leaves_a_single_example_is_refused_in_one_line(strategy: BatchStrategy, options: dict[str, int], line: str) -> None:
    assert refusal_of(lambda: planned(strategy, **options)) == line
    planned(strategy, **{**options, "min_micro_batch_size": 1})  # without batch norm there is nothing to refuse


def test_a_batch_that_grows_into_an_odd_one_late_is_refused_before_training() -> None:
    grown = MultiStep(4, [2], 1.25)  # 5 from epoch 2 on
    assert error_of(lambda: planned(grown, 100, max_micro_batch_size=2), "max_micro_batch_size", "update 50 has 5 examples")
    planned(grown, 100, max_micro_batch_size=3)


def test_two_devices_share_a_small_window_so_that_none_has_a_single_example() -> None:
    plan = planned(Fixed(10), 23, world_size=2)
    sizes = [
        [[size for _, size in plan.pieces(update, rank)] for rank in (0, 1)] for update in plan.updates_of_epoch(0, next(iter(plan)).start)
    ]
    assert sizes == [[[5], [5]], [[5], [5]], [[3], [0]]]


def test_a_plan_without_end_is_checked_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    shrinking = Linear(4, 1, 3, last="carry")
    assert error_of(lambda: planned(shrinking, 10, max_epochs=None), "size", "has 1 example")
    monkeypatch.setattr("noisescale.plans.trainer_limits.LOOK_AHEAD", 4)
    plan = planned(shrinking, 20, max_epochs=None)
    late = next(update for update in plan if update.effective_batch_size == 1)
    assert error_of(lambda: plan.pieces(late, 0), "size", f"update {late.start.step} has 1 example")


class Mutable(BatchStrategy):
    """A strategy of a user's that cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def check(self, num_examples: int) -> None:
        pass

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return 1 if epoch > 1 else 3


def test_a_strategy_that_cannot_be_hashed_is_checked_too() -> None:
    assert error_of(lambda: planned(Mutable(), 9), "size", "update 4 has 1 example")


def test_checking_the_same_plan_again_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """train.py makes its plan three times."""
    strategy = Dual(32, rule="sgd", last="carry")
    cosine = schedules.Cosine(3)
    options = {"optimizer": "SGD", "max_epochs": 3, "min_micro_batch_size": 2}
    plan_for_trainer(cosine, strategy, N, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(Plan, "update_at", None)
    plan_for_trainer(cosine, strategy, N, **options)  # type: ignore[arg-type]

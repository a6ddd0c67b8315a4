"""The options of a dual and of a cyclic batch: the rule that the optimizer settles, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from noisescale import schedules
from noisescale.plans.duality import CyclicBatch, Dual, Matched, resolve_rule
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import Fixed, Full
from tests.helpers.refusals import refusal_of


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [("SGD", "sgd"), ("torch.optim.SGD", "sgd"), ("ASGD", "sgd"), ("Adam", "sgd"), ("AdamW", "sgd"), ("torch.optim.RMSprop", "adaptive")],
)
def test_a_rule_left_open_follows_the_optimizer(optimizer: str, rule: str) -> None:
    assert resolve_rule(Dual(32), optimizer) == Dual(32, rule=rule)
    assert resolve_rule(CyclicBatch(32, 2), optimizer) == CyclicBatch(32, 2, rule=rule)
    for settled in (Dual(32, rule="sgd"), Dual(32, rule="adaptive"), Fixed(32), Full()):
        assert resolve_rule(settled, optimizer) is settled


GROWTH = "must be a finite number in [0, 1]; 0 decays the learning rate, 1 grows the batch"
CAP = "must be a whole number of examples, at least 32; the batch starts at `size`; null for N/10"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Dual(0), "size=0: must be a whole number of examples, at least 1"),
        (lambda: Dual(32, growth=2), f"growth=2: {GROWTH}"),
        (lambda: Dual(32, growth=-0.1), f"growth=-0.1: {GROWTH}"),
        (lambda: Dual(32, growth=math.nan), f"growth=nan: {GROWTH}"),
        (lambda: Dual(32, rule="x"), "rule=x: must be one of sgd, adaptive"),
        (lambda: Dual(32, match="x"), "match=x: must be one of exact, ratio"),
        (lambda: Dual(32, max_size=31), f"max_size=31: {CAP}"),
        (lambda: Dual(32, max_size=64.0), f"max_size=64.0: {CAP}"),  # type: ignore[arg-type]
        (lambda: Dual(32, match_last=3), "match_last=3: must be true or false"),  # type: ignore[arg-type]
        (lambda: Dual(32, last="x"), "last=x: must be one of carry, partial, drop, spread"),
        (
            lambda: Dual(32, lr_rule="linear"),
            "lr_rule=linear: needs a reference_size, the batch that lr is quoted for; for example reference_size=128",
        ),
        (lambda: CyclicBatch(32, 2, base_factor=0), "base_factor=0: must be a finite number in (0, 1]"),
        (lambda: CyclicBatch(32, 2, base_factor=1.1), "base_factor=1.1: must be a finite number in (0, 1]"),
        (lambda: CyclicBatch(32, 0), "step_size_up=0: must be a finite number in (0, inf), in epochs"),
        (lambda: CyclicBatch(32, 2, -1), "step_size_down=-1: must be a finite number in (0, inf), in epochs"),
        (lambda: CyclicBatch(32, 2, mode="x"), "mode=x: must be one of triangular, triangular2, exp_range"),
        (lambda: CyclicBatch(32, 2, wave="x"), "wave=x: must be one of triangle, square"),
        (lambda: CyclicBatch(32, 2, gamma=0), "gamma=0: must be a finite number in (0, 1]"),
    ],
)
def test_refusals(make: Callable[[], Matched], line: str) -> None:
    assert refusal_of(make) == line


FULL = "must be below N = 100: a full batch has no noise to match; use batch=full"
BEYOND = "must be at most N = 100, the examples of one pass; use batch=full for all of them"


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (Dual(100, rule="sgd"), f"size=100: {FULL}"),
        (CyclicBatch(100, 2, rule="adaptive"), f"size=100: {FULL}"),
        (Dual(101, rule="sgd"), f"size=101: {BEYOND}"),
        (Dual(32, rule="sgd", max_size=101), f"max_size=101: {BEYOND}"),
        (Dual(32), "rule=null: there is no optimizer to take it from; set it to sgd or adaptive"),
        (CyclicBatch(32, 2), "rule=null: there is no optimizer to take it from; set it to sgd or adaptive"),
        (Dual(30, rule="sgd", micro_batch_size=16), "size=30: must be a multiple of micro_batch_size=16; for example 16"),
        (Dual(32, rule="sgd", max_size=50, micro_batch_size=16), "max_size=50: must be a multiple of micro_batch_size=16; for example 48"),
    ],
)
def test_what_n_examples_cannot_carry_is_refused_before_the_first_update(strategy: Matched, line: str) -> None:
    assert refusal_of(lambda: Plan(schedules.Constant(), strategy, 100, 1)) == line


def test_n_of_1_has_no_batch_that_could_carry_noise() -> None:
    line = "size=1: must be below N = 1: a full batch has no noise to match; use batch=full"
    assert refusal_of(lambda: Plan(schedules.Constant(), Dual(1, rule="sgd"), 1, 1)) == line

"""The order of a pass: compared with torch's samplers, and a function of seed and pass alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    WeightedRandomSampler,
)

from noisescale.execution.sampling import Sampling, chosen_sampling
from tests.helpers.chi_square import p_value
from tests.helpers.refusals import error_of
from tests.helpers.regression import N

UNEQUAL = [1.0 + index % 5 for index in range(N)]
"""A weight for each example of the regression data: 1 to 5."""
SOME_NEVER = [0.0 if index % 4 == 0 else 0.5 + index % 3 for index in range(N)]
"""Every fourth example is never drawn."""
KINDS = {
    "all, with replacement": chosen_sampling(None, True),
    "weights, with replacement": chosen_sampling(UNEQUAL, True),
    "weights, without": chosen_sampling(UNEQUAL, False),
    "some never, with": chosen_sampling(SOME_NEVER, True),
    "some never, without": chosen_sampling(SOME_NEVER, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_a_function_of_seed_and_pass_alone(kind: str) -> None:
    sampling = KINDS[kind]
    assert sampling is not None
    torch.manual_seed(1)
    orders = {(seed, number): sampling.order(N, seed, number).tolist() for seed in (0, 1) for number in (0, 1, 2)}
    torch.manual_seed(2)
    assert orders == {(seed, number): sampling.order(N, seed, number).tolist() for seed, number in reversed(orders)}
    assert len({tuple(order) for order in orders.values()}) == 6
    never = {index for index in range(N) if "never" in kind and index % 4 == 0}
    n = N - len(never)
    assert sampling.num_examples(N) == n
    for order in orders.values():
        assert len(order) == n
        assert not never & set(order)
        if sampling.replacement:
            assert len(set(order)) < n
        else:
            assert sorted(order) == sorted({*range(N)} - never)


@given(
    numbers=st.lists(st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 1.0, 3.0, 1e300, 1.7e308]), min_size=1, max_size=40),
    replacement=st.booleans(),
    number=st.integers(0, 10),
)
def test_no_weight_is_too_small_or_too_large(numbers: list[float], replacement: bool, number: int) -> None:
    drawable = {index for index, weight in enumerate(numbers) if weight > 0}
    if not drawable:
        error_of(lambda: chosen_sampling(numbers, replacement), "sampling_weights", "nothing to draw")
        return
    sampling = chosen_sampling(numbers, replacement)
    assert sampling is not None
    order = sampling.order(len(numbers), 0, number).tolist()
    assert len(order) == len(drawable)
    assert set(order) <= drawable
    assert replacement or set(order) == drawable


def test_the_unit_of_the_weights_and_their_type_do_not_matter() -> None:
    counts = [1 + index % 5 for index in range(N)]
    given: list[Any] = [counts, tuple(counts), torch.tensor(counts), torch.tensor(counts, dtype=torch.float32), np.array(counts) / 8]
    for replacement in (True, False):
        orders = [chosen_sampling(each, replacement).order(N, 0, 0).tolist() for each in given]  # type: ignore[union-attr]
        assert orders == [orders[0]] * len(orders)


def passes(sampling: Sampling, size: int, count: int) -> Iterator[list[int]]:
    return (sampling.order(size, 11, number).tolist() for number in range(count))


def test_with_replacement_frequencies_are_those_of_torch() -> None:
    numbers = [0.0, 1.0, 2.0, 3.0, 10.0, 0.5, 0.0, 3.5]
    expected = {index: weight / sum(numbers) for index, weight in enumerate(numbers) if weight}
    sampler = WeightedRandomSampler(numbers, 40_000, generator=torch.Generator().manual_seed(3))
    ours = Counter(index for order in passes(Sampling(torch.tensor(numbers, dtype=torch.float64), True), 8, 40_000 // 6) for index in order)
    theirs = Counter(sampler)
    assert p_value(ours, expected) > 1e-4
    assert p_value(theirs, expected) > 1e-4
    assert p_value(ours, dict.fromkeys(expected, 1 / 6)) < 1e-9  # the test can fail
    shifted = {index: share + (0.01 if index == 1 else -0.01 if index == 4 else 0.0) for index, share in expected.items()}
    assert p_value(ours, shifted) < 0.01


def test_without_replacement_orders_have_the_probabilities_of_successive_draws_as_torchs_have() -> None:
    numbers = [1.0, 2.0, 3.0, 6.0]
    expected = {}
    for order in permutations(range(4)):
        left, expected[order] = sum(numbers), 1.0
        for index in order:
            expected[order] *= numbers[index] / left
            left -= numbers[index]
    assert sum(expected.values()) == pytest.approx(1)
    ours = Counter(map(tuple, passes(Sampling(torch.tensor(numbers, dtype=torch.float64)), 4, 6000)))
    generator = torch.Generator().manual_seed(3)
    theirs = Counter(tuple(WeightedRandomSampler(numbers, 4, replacement=False, generator=generator)) for _ in range(6000))
    assert p_value(ours, expected) > 1e-4
    assert p_value(theirs, expected) > 1e-4
    assert p_value(ours, dict.fromkeys(expected, 1 / 24)) < 1e-9


def test_draws_are_independent_of_each_other() -> None:
    """Pairs of neighbours have the product of the probabilities; an order that is a permutation in disguise would never repeat itself."""
    numbers = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    share = (numbers / numbers.sum()).tolist()
    pairs = Counter((order[0], order[1]) for order in passes(Sampling(numbers, True), 3, 6000))
    assert p_value(pairs, {(i, j): share[i] * share[j] for i in range(3) for j in range(3)}) > 1e-4


@pytest.mark.slow
def test_more_examples_than_torch_multinomial_can_draw_from() -> None:
    """torch.multinomial ends at 2^24 categories. The last example has almost all of the weight, so it is drawn first, and most often."""
    size = 2**24 + 3
    numbers = torch.ones(size, dtype=torch.float64)
    numbers[-1] = 1e12
    with pytest.raises(RuntimeError, match="2\\^24"):
        torch.multinomial(numbers, 1, replacement=True)
    order = Sampling(numbers, replacement=True).order(size, 0, 0)
    assert len(order) == size
    assert float((order == size - 1).double().mean()) > 0.9999
    once = Sampling(numbers).order(size, 0, 0)
    assert int(once[0]) == size - 1
    assert torch.equal(once.sort().values, torch.arange(size))

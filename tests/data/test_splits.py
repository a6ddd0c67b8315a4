"""The choice of examples: balanced orders, nested subsets, and the validation split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noisescale.data import balanced_order, derived_generator, split_train_val
from noisescale.plans.dataset_size import split_sizes
from tests.helpers.draws import quick, seeds

labels_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda values: torch.tensor(values))


@given(labels=labels_strategy, seed=seeds)
@quick
def test_every_prefix_of_a_balanced_order_is_balanced(labels: Tensor, seed: int) -> None:
    n = labels.numel()
    order = balanced_order(labels, n, derived_generator(seed))
    assert sorted(order.tolist()) == list(range(n))
    for c in labels.unique().tolist():
        taken = (labels[order] == c).cumsum(0)
        share = torch.arange(1, n + 1) * int((labels == c).sum())
        assert bool(((taken >= share // n) & (taken <= (share + n - 1) // n)).all())


@given(labels=labels_strategy, seed=seeds, data=st.data())
@quick
def test_subsets_of_one_seed_are_prefixes_of_each_other(labels: Tensor, seed: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(0, labels.numel()))
    large = data.draw(st.integers(small, labels.numel()))
    a, b = (balanced_order(labels, m, derived_generator(seed)) for m in (small, large))
    assert torch.equal(a, b[:small])


@given(labels=labels_strategy, seed=seeds, val_fraction=st.floats(0, 0.5), data=st.data())
@quick
def test_train_and_validation_share_the_subset_out(labels: Tensor, seed: int, val_fraction: float, data: st.DataObject) -> None:
    n = labels.numel()
    m = data.draw(st.none() | st.integers(2, n)) if n > 2 else None
    if n == 1:
        val_fraction = 0.0
    train, val = split_train_val(labels, subset_size=m, val_fraction=val_fraction, seed=seed)
    assert (train.numel(), val.numel()) == split_sizes(n, subset_size=m, val_fraction=val_fraction)
    together = torch.cat([train, val])
    subset = torch.arange(n) if m is None else balanced_order(labels, m, derived_generator("subset", seed))
    assert sorted(together.tolist()) == sorted(subset.tolist())
    assert [i for i in subset.tolist() if i in set(train.tolist())] == train.tolist()
    for c in range(6):
        share = val.numel() * int((labels[together] == c).sum()) / together.numel()
        assert abs(int((labels[val] == c).sum()) - share) < 1


def test_classes_of_equal_size_stay_equal() -> None:
    labels = torch.arange(1000) % 10
    train, val = split_train_val(labels, subset_size=200, val_fraction=0.1, seed=3)
    assert labels[train].bincount().tolist() == [18] * 10
    assert labels[val].bincount().tolist() == [2] * 10


def test_seeds_choose_other_examples() -> None:
    labels = torch.arange(1000) % 10
    chosen = [split_train_val(labels, subset_size=50, val_fraction=0.2, seed=seed)[0].tolist() for seed in range(5)]
    assert len({tuple(sorted(c)) for c in chosen}) == 5


@pytest.mark.parametrize(
    ("n", "subset_size", "val_fraction", "sizes"),
    [
        (1437, None, 0.1, (1293, 144)),
        (60_000, None, 0.1, (54_000, 6000)),
        (50_000, 500, 0.1, (450, 50)),
        (100, 3, 0.01, (2, 1)),
        (10, None, 0.0, (10, 0)),
        (10, None, 0, (10, 0)),
        (10, 1, 0, (1, 0)),
    ],
)
def test_split_sizes(n: int, subset_size: int | None, val_fraction: float, sizes: tuple[int, int]) -> None:
    assert split_sizes(n, subset_size=subset_size, val_fraction=val_fraction) == sizes

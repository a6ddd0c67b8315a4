"""The table of diabetes: the numbers of scikit-learn, split and standardised without the examples that are not for training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes

from noisescale.data import DiabetesData
from tests.helpers.refusals import refusal_of

COMMON: dict[str, Any] = {"subset_size": None, "val_fraction": 0.1, "eval_batch_size": 50, "seed": 0}


def data(**changes: Any) -> DiabetesData:
    found = DiabetesData(**(COMMON | changes))
    found.setup()
    return found


def rows(found: DiabetesData, part: str) -> torch.Tensor:
    """The rows as scikit-learn has them, features and target."""
    loader = getattr(found, f"{part}_dataloader")()
    batches = [torch.cat(batch, dim=1) for batch in loader] if loader else []
    return torch.cat(batches).double() * found.std + found.mean if batches else torch.zeros(0, 11)


def as_set(table: torch.Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in table.mul(10_000).round().tolist()}


def test_the_parts_are_all_examples_of_scikit_learn_each_once() -> None:
    features, target = load_diabetes(return_X_y=True, scaled=False)
    everything = as_set(torch.column_stack((torch.from_numpy(features), torch.from_numpy(target))))
    found = data()
    parts = [rows(found, part) for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [319, 35, 88] == [found.train_size(), 354 - found.num_examples, found.NUM_TEST]
    assert len(everything) == 442
    assert as_set(torch.cat(parts)) == everything


def test_the_test_set_is_the_same_for_all_seeds_and_the_validation_set_is_not() -> None:
    one, other = data(), data(seed=1, subset_size=100)
    assert as_set(rows(one, "test")) == as_set(rows(other, "test"))
    assert as_set(rows(one, "val")) != as_set(rows(data(seed=1), "val"))


def test_columns_are_standardised_over_the_training_examples_alone() -> None:
    found = data(subset_size=100)
    x, y = (torch.cat(column).double() for column in zip(*found.train_dataloader(), strict=True))
    table = torch.cat((x, y), dim=1)
    assert table.shape == (90, 11)
    torch.testing.assert_close(table.mean(0), torch.zeros(11).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(table.std(0, correction=0), torch.ones(11).double(), atol=1e-6, rtol=0)
    assert (found.input_shape, found.num_outputs, x.dtype) == ((10,), 1, torch.float64)


def test_a_constant_column_is_zero_and_not_nan() -> None:
    found = data(subset_size=2, val_fraction=0)
    assert all(bool(part.isfinite().all()) for batch in found.test_dataloader() for part in batch)
    single = data(subset_size=1, val_fraction=0)
    assert single.std.tolist() == [1.0] * 11


def test_subsets_are_nested_and_without_validation_all_examples_train() -> None:
    small, large = data(subset_size=50, val_fraction=0), data(subset_size=80, val_fraction=0)
    assert as_set(rows(small, "train")) < as_set(rows(large, "train"))
    assert len(rows(small, "train")) == small.num_examples == 50
    assert small.val_dataloader() == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"subset_size": 355}, "subset_size=355: the training set has 354 examples; choose 1 to 354, or null for all"),
        ({"val_fraction": 1}, "val_fraction=1: must be a finite number in [0, 1)"),
        ({"size": 10}, "size=10: replaces the data, and is only for plan.py; leave it at null to train"),
        ({"eval_batch_size": 0}, "eval_batch_size=0: must be a whole number of examples, at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], line: str) -> None:
    assert refusal_of(lambda: data(**changes)) == line


def test_loaders_come_after_setup() -> None:
    with pytest.raises(RuntimeError, match=r"call setup\(\)"):
        DiabetesData(**COMMON).train_dataloader()

"""The digits: scikit-learn's images, their sizes and statistics, and a test set that never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from noisescale.data.digits import _digits
from tests.helpers.images import digits


def test_digits_after_setup() -> None:
    data = digits()
    assert data.train_size() == 1293
    data.setup("fit")
    data.setup("fit")
    assert (data.num_examples, data.num_classes, data.in_channels, data.image_size) == (1293, 10, 1, (8, 8))
    assert data.class_names == tuple("0123456789")
    dataset: Any = data.train_dataloader().dataset
    assert len(dataset) == 1293
    unit = dataset.images.numpy() / 255
    assert data.mean == pytest.approx((unit.mean(),))
    assert data.std == pytest.approx((unit.std(),))
    assert (dataset.images.dtype, dataset.images.max()) == (torch.uint8, 255)


def every_digit() -> npt.NDArray[np.int64]:
    from sklearn.datasets import load_digits

    labels: npt.NDArray[np.int64] = load_digits().target
    return labels


def test_digits_are_those_that_scikit_learn_reads() -> None:
    from sklearn.datasets import load_digits

    read = load_digits()
    levels, labels = _digits()
    assert torch.equal(levels.double(), torch.from_numpy(read.images))
    assert torch.equal(labels, torch.from_numpy(read.target))
    assert list(read.target_names) == list(range(10))


def test_the_test_set_of_digits_is_fixed_and_balanced_whatever_the_seed() -> None:
    sets = []
    for seed in (0, 1):
        data = digits(seed=seed)
        data.setup()
        sets.append(next(iter(data.test_dataloader())))
    assert torch.equal(sets[0][0], sets[1][0])
    assert torch.equal(sets[0][1], sets[1][1])
    images, labels = sets[0]
    assert labels.numel() == 360
    share = 360 / 1797 * np.bincount(every_digit())
    assert bool((np.abs(labels.bincount().numpy() - share) < 1).all())
    # Pinned, because accuracies on this test set are compared across versions.
    assert int((images.double().sum((1, 2, 3)) * torch.arange(1, 361)).sum()) == 323753856


def test_training_validation_and_test_of_digits_are_disjoint() -> None:
    data = digits()
    data.setup()
    loaders: list[Any] = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    rows = [image.tobytes() for loader in loaders for batch in loader for image in batch[0].numpy()]
    assert len(rows) == len(set(rows)) == 1797

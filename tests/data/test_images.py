"""Images in memory: the statistics of their channels, their normalisation, and the data set that selects rows of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisescale.data import ImageDataset, channel_statistics, derived_generator, normalize
from tests.helpers.draws import quick, seeds


@given(seed=seeds, n=st.integers(1, 5), c=st.integers(1, 3), top=st.integers(2, 256))
@quick
def test_channel_statistics_are_those_of_numpy(seed: int, n: int, c: int, top: int) -> None:
    images = torch.randint(0, top, (n, c, 5, 4), generator=derived_generator(seed), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    unit = images.numpy() / 255
    np.testing.assert_allclose(mean, unit.mean((0, 2, 3)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(std, np.maximum(unit.std((0, 2, 3)), 1 / 255), rtol=1e-9)


def test_a_constant_channel_normalises_to_zeros() -> None:
    images = torch.full((3, 1, 4, 4), 77, dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert std == (1 / 255,)
    assert (77 / 255 - mean[0]) / std[0] == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_normalize_rounds_once(dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 2, 8, 16)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(2, 1, 1) for v in ([0.3, 0.5], [0.2, 0.4]))
    exact = (images.numpy() / 255 - mean.numpy()) / std.numpy()
    found = normalize(images, mean, std, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, torch.from_numpy(exact).to(dtype)) or torch.allclose(found.double(), torch.from_numpy(exact))


@given(mean=st.floats(0, 1), std=st.floats(1 / 255, 0.5))
@quick
def test_normalize_is_as_exact_as_its_precision_allows(mean: float, std: float) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = normalize(images, torch.tensor(mean).view(1, 1, 1), torch.tensor(std).view(1, 1, 1), torch.float32).double()
    exact = (images.double() / 255 - mean) / std
    # Each rounding is at most half a unit in the last place: two of the mean and one of the difference, then three of the scale and one of
    # the product.
    half = torch.finfo(torch.float32).eps / 2
    bound = half * (2 * mean / std + 5 * exact.abs()) * 1.01
    assert bool(((found - exact).abs() <= bound + 1e-40).all())


def test_rows_choose_the_examples_of_shared_images() -> None:
    images = torch.randint(0, 256, (10, 1, 4, 4), generator=derived_generator(0), dtype=torch.uint8)
    rows, labels = torch.tensor([7, 2, 9]), torch.tensor([0, 1, 2])
    shared = ImageDataset(images, labels, True, rows)
    for dataset in (shared, shared.to(torch.device("cpu"))):
        found = dataset.take(torch.tensor([2, 0]))
        assert torch.equal(found[0], images[[9, 7]])
        assert found[1].tolist() == [2, 0]
        assert found[2].tolist() == [2, 0]
    assert len(shared) == 3
    assert shared.to(torch.device("cpu")).images.shape == (3, 1, 4, 4)

"""Random crop and flip: the table of choices, the pixels, compared with slices of a padded image, and those of a GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noisescale.data import crop_flip, crop_flip_table, derived_generator
from tests.helpers.draws import quick, seeds
from tests.helpers.images import digits


def crop_flip_one(image: npt.NDArray[np.uint8], dy: int, dx: int, flip: int) -> npt.NDArray[np.uint8]:
    """An independent brute-force version: slice one padded image."""
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (h // 8, h // 8), (w // 8, w // 8)))
    window = padded[:, dy : dy + h, dx : dx + w]
    return window[:, :, ::-1] if flip else window


@given(seed=seeds, n=st.integers(1, 6), c=st.sampled_from([1, 3]), h=st.integers(4, 34), w=st.integers(4, 34))
@quick
def test_crop_flip_is_slicing_a_padded_image(seed: int, n: int, c: int, h: int, w: int) -> None:
    images = torch.randint(0, 256, (n, c, h, w), generator=derived_generator(seed), dtype=torch.uint8)
    table = crop_flip_table(seed=seed, epoch=1, num_examples=n, image_size=(h, w))
    expected = [crop_flip_one(image.numpy(), *row.tolist()) for image, row in zip(images, table, strict=True)]
    np.testing.assert_array_equal(crop_flip(images, table).numpy(), np.stack(expected))


def test_the_table_draws_every_crop_and_flip_equally_often() -> None:
    table = crop_flip_table(seed=0, epoch=0, num_examples=90_000, image_size=(32, 32))
    for column, values in enumerate([9, 9, 2]):
        counts = table[:, column].bincount()
        assert counts.numel() == values
        assert counts.numpy() == pytest.approx(90_000 / values, rel=0.05)
    assert abs(float(torch.corrcoef(table.T.double()).fill_diagonal_(0).abs().max())) < 0.02


def test_tables_of_epochs_and_seeds_are_unrelated() -> None:
    def make(seed: int, epoch: int) -> Tensor:
        return crop_flip_table(seed=seed, epoch=epoch, num_examples=2000, image_size=(32, 32))

    assert torch.equal(make(1, 2), make(1, 2))
    for other in (make(1, 3), make(2, 2), make(2, 1), make(0, 3)):  # the last two have the same seed + epoch
        same = (make(1, 2) == other).float().mean(0)
        assert same[:2].tolist() == pytest.approx([1 / 9, 1 / 9], abs=0.03)
        assert float(same[2]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_pixels_of_the_cpu() -> None:
    images = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8)
    table = crop_flip_table(seed=0, epoch=0, num_examples=500, image_size=(32, 32))
    assert torch.equal(crop_flip(images.cuda(), table.cuda()).cpu(), crop_flip(images, table))
    data = digits()
    data.setup("fit")
    x, y, i = next(iter(data.train_dataloader()))
    on_gpu = data.on_after_batch_transfer((x.cuda(), y.cuda(), i.cuda()), 0)
    torch.testing.assert_close(on_gpu[0].cpu(), data.on_after_batch_transfer((x, y, i), 0)[0])

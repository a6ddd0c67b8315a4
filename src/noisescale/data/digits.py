"""The digits of scikit-learn: 1797 real 8 x 8 grey images that come with the library, no download."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from noisescale.data.datamodule import ImageDataModule
from noisescale.data.images import Examples, Split
from noisescale.data.splits import balanced_order, derived_generator
from noisescale.sizes import TRAINING_EXAMPLES

__all__ = ["DigitsData"]


class DigitsData(ImageDataModule):
    """scikit-learn's digits, 10 classes, grey levels 0 to 16 spread over 0 to 255.

    The set comes without a test part: a fixed, class-balanced fifth, 360 images, is it, whatever the seed; 1437 train.
    Arguments as for `ImageDataModule`.
    """

    NUM_TRAIN: ClassVar[int] = TRAINING_EXAMPLES["digits"]
    NUM_TEST: ClassVar[int] = 360

    def train_examples(self) -> int:
        return self.NUM_TRAIN

    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        from sklearn.datasets import load_digits  # here: importing scikit-learn takes a second that other sets need not pay

        digits = load_digits()
        levels = torch.from_numpy(digits.images)
        labels = torch.from_numpy(digits.target).to(torch.int64)
        tests = torch.zeros(labels.numel(), dtype=torch.bool)
        tests[balanced_order(labels, self.NUM_TEST, derived_generator("digits"))] = True
        rows = torch.nonzero(tests if split == "test" else ~tests).flatten()
        rows = rows[select(labels[rows])]
        images = (levels[rows] * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
        return Examples(images, labels[rows], tuple(str(name) for name in digits.target_names))

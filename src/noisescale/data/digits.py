"""scikit-learn's digits: 1797 real 8 x 8 grey images that come with the library, without a download."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from noisescale.data.datamodule import ImageDataModule
from noisescale.data.images import Examples, Split
from noisescale.data.splits import balanced_order, derived_generator
from noisescale.plans.dataset_size import TRAINING_EXAMPLES

__all__ = ["DigitsData"]


class DigitsData(ImageDataModule):
    """scikit-learn's digits, 10 classes, with grey levels 0 to 16 scaled to 0 to 255.

    scikit-learn has no test split of it. Here the test set is a fixed, class-balanced fifth, 360 images, whatever the seed; the other
    1437 are the training set. The arguments are those of `ImageDataModule`.
    """

    NUM_TRAIN: ClassVar[int] = TRAINING_EXAMPLES["digits"]
    NUM_TEST: ClassVar[int] = 360

    def train_examples(self) -> int:
        return self.NUM_TRAIN

    def read(self, split: Split, select: Callable[[Tensor], Tensor]) -> Examples:
        levels, labels = _digits()
        tests = torch.zeros(labels.numel(), dtype=torch.bool)
        tests[balanced_order(labels, self.NUM_TEST, derived_generator("digits"))] = True
        rows = torch.nonzero(tests if split == "test" else ~tests).flatten()
        rows = rows[select(labels[rows])]
        images = (levels[rows].double() * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
        names = tuple(map(str, range(10)))
        return Examples(images, labels[rows], names, resident=self.fits(self.NUM_TRAIN, self.NUM_TEST, (1, 8, 8)))


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Grey levels uint8 (1797, 8, 8) and labels int64 (1797,), as `sklearn.datasets.load_digits` reads them, in the same order.

    The file is found without importing scikit-learn, because the import would take longer than everything else at the start of a run.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("data=digits comes with scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].to(torch.int64)

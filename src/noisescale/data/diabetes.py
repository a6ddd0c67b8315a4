"""scikit-learn's diabetes: a small table for regression that comes with the library, without a download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from noisescale.data.images import as_is
from noisescale.data.splits import check_split_options, derived_generator
from noisescale.execution.batched import BatchedDataset
from noisescale.plans.dataset_size import TRAINING_EXAMPLES, refuse_stand_in_size, split_sizes

__all__ = ["DiabetesData", "TableDataset"]


@dataclass(frozen=True, eq=False)
class TableDataset(BatchedDataset):
    """Rows of numbers and their targets, fetched a batch at a time.

    Attributes:
        inputs: shape (n, features).
        targets: shape (n, outputs).
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (b,) -> (inputs (b, features), targets (b, outputs))."""
        return self.inputs.index_select(0, indices), self.targets.index_select(0, indices)


class DiabetesData(pl.LightningDataModule):
    """scikit-learn's diabetes: batches (x, y) of 10 features (n, 10) and one target (n, 1), in single precision.

    Each column, the target too, is (value - mean) / std with the mean and the (population) standard deviation of the N training examples,
    so that a root mean squared error of 1 is that of always saying the mean. In the unit of the source it is that times `std[-1]`.

    The test set is a fixed random fifth, 88 examples, whatever the seed; the other 354 are the training set.

    Args:
        subset_size: how many training examples to use, from the start of a random order that `seed` determines. None: all.
        val_fraction: in [0, 1), the share of the (sub)set that is held out for validation.
        eval_batch_size: examples per validation and test batch; does not change the results.
        seed: determines the subset and the validation split.
        batch_size: examples per training batch, if nothing else plans the batches.
        size: N to plan with, instead of the data set's own; `setup` then refuses to run.

    Attributes, after `setup`:
        num_examples: N.
        mean, std: of each of the 11 columns, the target last; std is 1 where all N values are equal.

    Raises:
        ConfigError: a value is out of range.

    Source: Efron, Hastie, Johnstone, Tibshirani 2004, Least angle regression.
    """

    NUM_TRAIN: ClassVar[int] = TRAINING_EXAMPLES["diabetes"]
    NUM_TEST: ClassVar[int] = 88

    targets: ClassVar[str] = "numbers"
    input_shape: ClassVar[tuple[int]] = (10,)
    num_outputs: ClassVar[int] = 1
    free_on_resume: ClassVar[frozenset[str]] = frozenset({"size", "eval_batch_size", "batch_size"})
    """Arguments that a resumed run may change."""

    num_examples: int
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        subset_size: int | None,
        val_fraction: float,
        eval_batch_size: int,
        seed: int,
        batch_size: int = 64,
        size: int | None = None,
    ) -> None:
        super().__init__()
        check_split_options(
            subset_size=subset_size,
            val_fraction=val_fraction,
            eval_batch_size=eval_batch_size,
            seed=seed,
            batch_size=batch_size,
            size=size,
        )
        self.subset_size = subset_size
        self.val_fraction = val_fraction
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.batch_size = batch_size
        self.size = size
        self._parts: dict[str, TableDataset] = {}

    def train_size(self) -> int:
        """N = `num_examples`, before anything is read."""
        if self.size is not None:
            return self.size
        return split_sizes(self.NUM_TRAIN, subset_size=self.subset_size, val_fraction=self.val_fraction)[0]

    def setup(self, stage: str | None = None) -> None:
        """Read, split and standardise; only once."""
        refuse_stand_in_size(self.size)
        if self._parts:
            return
        table = _table()
        order = torch.randperm(len(table), generator=derived_generator("diabetes"))
        rest, test = table[order[self.NUM_TEST :]], table[order[: self.NUM_TEST]]
        subset = rest[torch.randperm(len(rest), generator=derived_generator("subset", self.seed))[: self.subset_size]]
        self.num_examples = n = self.train_size()
        held_out = torch.randperm(len(subset), generator=derived_generator("validation", self.seed))[n:]
        trains = torch.ones(len(subset), dtype=torch.bool)
        trains[held_out] = False
        train, val = subset[trains], subset[~trains]
        self.mean, std = train.mean(0), train.std(0, correction=0)
        self.std = torch.where(std > 0, std, 1.0)
        for name, rows in {"train": train, "val": val, "test": test}.items():
            standard = ((rows - self.mean) / self.std).float()
            self._parts[name] = TableDataset(standard[:, :-1], standard[:, -1:])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled batches. A planned batch sampler may replace the shuffling."""
        return DataLoader(self._part("train"), batch_size=self.batch_size, shuffle=True, collate_fn=as_is)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]] | list[DataLoader[tuple[Tensor, Tensor]]]:
        """The examples that are held out; an empty list if `val_fraction` is 0."""
        return DataLoader(self._part("val"), batch_size=self.eval_batch_size, collate_fn=as_is) if self.val_fraction > 0 else []

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """The test set."""
        return DataLoader(self._part("test"), batch_size=self.eval_batch_size, collate_fn=as_is)

    def _part(self, name: str) -> TableDataset:
        if not self._parts:
            raise RuntimeError("DiabetesData: call setup() before asking for a loader")
        return self._parts[name]


@cache
def _table() -> Tensor:
    """float64 (442, 11): the features as measured, then the target, in the order of `sklearn.datasets.load_diabetes(scaled=False)`.

    The files are found without importing scikit-learn, because the import would take longer than everything else at the start of a run.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("data=diabetes comes with scikit-learn, which is not installed: pip install scikit-learn")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    features, targets = (np.loadtxt(folder / f"diabetes_{name}.csv.gz") for name in ("data_raw", "target"))
    return torch.from_numpy(np.column_stack((features, targets)))

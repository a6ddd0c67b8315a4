"""The batches that a module gets from Lightning's trainer: augmented, normalised, in its dtype, whatever the workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from noisescale.data import DigitsData, crop_flip, crop_flip_table
from tests.helpers.images import COMMON, digits
from tests.helpers.trainings import quiet_trainer


class Recorder(pl.LightningModule):
    """Records the training batches of each epoch, and the evaluation batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[tuple[Tensor, Tensor]]] = []
        self.evaluated: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen[-1].append(batch)
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Ordered(DigitsData):
    """Digits whose training batches are in the order of the indices, `batch_size` examples each."""

    def train_dataloader(self) -> DataLoader[Any]:
        loader = super().train_dataloader()
        sampler = BatchSampler(SequentialSampler(range(self.num_examples)), self.batch_size, drop_last=False)
        return DataLoader(loader.dataset, batch_sampler=sampler, collate_fn=loader.collate_fn, num_workers=loader.num_workers)


# Lightning's advice to use workers, which is wrong for data in memory, and its own use of functions that torch 2.15 deprecates.
FITS = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")
FORKS = pytest.mark.filterwarnings("ignore:.*use of fork", "ignore:.*worker processes in total")


def epochs_of(batch_size: int, num_workers: int = 0) -> list[tuple[Tensor, Tensor]]:
    module = Recorder()
    common = {**COMMON, "subset_size": 70, "augment": "crop_flip", "num_workers": num_workers}
    quiet_trainer(max_epochs=2).fit(module, datamodule=Ordered(**common, batch_size=batch_size))
    return [(torch.cat([x for x, _ in epoch]), torch.cat([y for _, y in epoch])) for epoch in module.seen]


@FITS
@FORKS
def test_batching_and_workers_change_no_pixel_but_epochs_do() -> None:
    reference = epochs_of(batch_size=63)
    assert reference[0][0].shape == (63, 1, 8, 8)
    assert torch.equal(reference[0][1], reference[1][1])
    assert not torch.equal(reference[0][0], reference[1][0])
    for other in (epochs_of(1), epochs_of(20), epochs_of(20, num_workers=1)):
        for (x, y), (other_x, other_y) in zip(reference, other, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)


@FITS
def test_training_is_augmented_and_normalised_and_evaluation_only_normalised() -> None:
    module = Recorder()
    data = Ordered(**{**COMMON, "augment": "crop_flip", "subset_size": 100}, batch_size=30)
    quiet_trainer(max_epochs=1).fit(module, datamodule=data)
    dataset: Any = data.train_dataloader().dataset
    table = crop_flip_table(seed=0, epoch=0, num_examples=90, image_size=(8, 8))
    plain = crop_flip(dataset.images, table).numpy() / 255
    x = torch.cat([x for x, _ in module.seen[0]])
    np.testing.assert_allclose(x.numpy(), (plain - data.mean[0]) / data.std[0], rtol=1e-5, atol=1e-6)
    (validated,) = module.evaluated
    images, labels = next(iter(data.val_dataloader()))
    np.testing.assert_allclose(validated[0].numpy(), (images.numpy() / 255 - data.mean[0]) / data.std[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(validated[1], labels)
    module.evaluated.clear()
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert sum(y.numel() for _, y in module.evaluated) == 360
    module.evaluated.clear()
    quiet_trainer().validate(module, dataloaders=data.train_dataloader(), verbose=False)
    assert len(module.evaluated[0]) == 3  # for a bare loader the hook of the data module is not called


@FITS
def test_batches_come_in_the_dtype_of_the_module() -> None:
    module = Recorder()
    quiet_trainer(max_epochs=1, precision="64-true").fit(module, datamodule=digits())
    assert module.seen[0][0][0].dtype == torch.float64
    assert module.evaluated[0][0].dtype == torch.float64


@FITS
def test_without_validation_lightning_validates_nothing_and_says_nothing() -> None:
    module, data = Recorder(), digits(val_fraction=0, subset_size=100)
    one = quiet_trainer(max_epochs=1, num_sanity_val_steps=2)
    one.fit(module, datamodule=data)
    assert one.limit_val_batches == 1.0
    assert data.val_dataloader() == []
    assert module.evaluated == []
    assert data.num_examples == 100
    assert sum(y.numel() for _, y in module.seen[0]) == 100

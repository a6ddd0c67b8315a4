"""A tiny classification task: random examples with four numbers and three classes, and the module that is trained on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from noisescale.models import Classifier

BATCHES = 5
"""Number of batches of the loader in each epoch."""


def batches(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


def loader() -> DataLoader[Any]:
    (x, y), *_ = batches([4 * BATCHES])
    return DataLoader(TensorDataset(x, y), batch_size=4)


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Linear(4, 3), lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))

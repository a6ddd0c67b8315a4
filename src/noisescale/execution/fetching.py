"""Fetch the examples of one micro-batch, in the main process or in a worker: seeded, and counted before they are collated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from noisescale.execution.batched import BatchedDataset
from noisescale.execution.random_generators import seed_random_generators

__all__ = ["CountingCollate", "SeededDataset", "SeededList", "as_fetched", "fetched_apart", "length_of"]


class SeededList(list[int]):
    """Indices, with the seed of the random numbers that are drawn while loading them."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.seed)


class SeededDataset(Dataset[Any]):
    """The user's data set, seeded for each micro-batch, so that random transforms draw the same numbers in any worker."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: SeededList) -> Counted:
        if isinstance(self.dataset, BatchedDataset):
            batch = self.dataset.take(torch.tensor(indices))
            return Counted(length_of(batch, len(indices)), batch)
        seed_random_generators(indices.seed)
        batched = getattr(self.dataset, "__getitems__", None)
        examples = batched(list(indices)) if batched else [self.dataset[index] for index in indices]
        if not isinstance(examples, list):
            return Counted(len(indices), examples)
        return Counted(sum(example is not None for example in examples), examples)  # None: a collate function leaves it out


def length_of(batch: Any, expected: int) -> int:
    """How many examples a collated batch has: the length of its first tensor; `expected` if that is not found."""
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return len(first) if isinstance(first, torch.Tensor) and first.dim() else expected


class Counted(NamedTuple):
    """What was loaded, with the number of examples in it."""

    examples: int
    batch: Any


class CountingCollate:
    """The user's collate function, which also returns how many examples it was given."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, fetched: Any) -> Counted:
        return Counted(fetched.examples, self.collate(fetched.batch))


def as_fetched(fetched: Any) -> Any:
    """A collate function that leaves the examples as they are."""
    return fetched


def fetched_apart(loader: DataLoader[Any], lists: Sequence[SeededList]) -> Iterator[tuple[int, Any]]:
    """(number of examples, batch) of some lists of indices, as `loader` would fetch and collate them, apart from the training.

    With workers they are fetched in one worker of their own, because a data set may open its files when it is first used, and this process
    must not have done that when the workers of the training are made from it.
    """
    collate = loader.collate_fn
    once: DataLoader[Any] = DataLoader(
        loader.dataset if isinstance(loader.dataset, SeededDataset) else SeededDataset(loader.dataset),
        batch_sampler=lists,
        collate_fn=collate if isinstance(collate, CountingCollate) else CountingCollate(collate),
        num_workers=min(1, loader.num_workers),
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator().manual_seed(0),  # otherwise it would draw from the global one
    )
    for counted in once:
        yield counted.examples, counted.batch

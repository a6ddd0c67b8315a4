"""The examples of the user's DataLoader: their order in each pass, and how lists of them are loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from noisescale.execution.batched import BatchedDataset
from noisescale.execution.fetching import CountingCollate, SeededDataset, SeededList, as_fetched, fetched_apart, length_of
from noisescale.execution.sampling import Sampling, sampling_of
from noisescale.seeding import derive_seed

__all__ = ["Examples"]


class Examples:
    """The data set, collate_fn and workers of a DataLoader; its batch size is not used.

    Args:
        given: the user's DataLoader.
        seed: the seed of the orders of the passes.
        chosen: how a pass draws its examples; None: as `given` does.

    Attributes:
        dataset: the user's data set.
        sampling: how a pass draws its examples.
        num_examples: N, the examples of a pass.

    Raises:
        ConfigError: they cannot be indexed: an IterableDataset, a custom sampler, several loaders.
    """

    def __init__(self, given: Any, seed: int, chosen: Sampling | None = None) -> None:
        self.sampling = sampling_of(given, chosen)
        self.dataset: Dataset[Any] = given.dataset
        self.num_examples = self.sampling.num_examples(len(given.dataset))
        self._given, self._seed = given, seed
        self._seeded = SeededDataset(given.dataset)
        self._pass = lru_cache(maxsize=2)(self._order)

    # -- the order of a pass --------------------------------------------------------------------------------------------------

    def indices(self, position: int, size: int) -> torch.Tensor:
        """The examples at `position` to `position + size - 1` of the stream of passes, int64 (size,).

        Pass p depends only on (seed, p), see `Sampling`.
        """
        n, parts = self.num_examples, []
        while size > 0:
            number, offset = divmod(position, n)
            parts.append(self._pass(number)[offset : offset + size])
            position, size = position + len(parts[-1]), size - len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, number: int) -> torch.Tensor:
        return self.sampling.order(len(self.dataset), self._seed, number)  # type: ignore[arg-type]

    # -- the batches of the training ------------------------------------------------------------------------------------------

    def loader_of(self, lists: Iterable[SeededList]) -> DataLoader[Any]:
        """A DataLoader of (number of examples, batch) of lists of indices, with the workers of the user's own."""
        given = self._given
        return DataLoader(
            self._seeded,
            batch_sampler=lists,
            collate_fn=CountingCollate(given.collate_fn),
            num_workers=given.num_workers,
            pin_memory=given.pin_memory,
            timeout=given.timeout,
            worker_init_fn=given.worker_init_fn,
            multiprocessing_context=given.multiprocessing_context,
            prefetch_factor=given.prefetch_factor,
            persistent_workers=given.persistent_workers,
            generator=torch.Generator().manual_seed(derive_seed("workers", self._seed)),
        )

    @property
    def can_be_taken(self) -> bool:
        """Whether a batch is taken from the data set as a whole, in this process, without a DataLoader between."""
        return isinstance(self.dataset, BatchedDataset) and self._given.num_workers == 0 and not self._given.pin_memory

    def taken(self, indices: torch.Tensor) -> tuple[int, Any]:
        """(number of examples, batch) of a `BatchedDataset`."""
        assert isinstance(self.dataset, BatchedDataset)
        batch = self.dataset.take(indices)
        return length_of(batch, len(indices)), self._given.collate_fn(batch)

    # -- batches apart from the training, for a trial -------------------------------------------------------------------------

    def fetched(self, lists: Iterable[SeededList]) -> Iterator[list[Any]]:
        """The examples of some lists of indices.

        With workers all of them are fetched in one worker of their own, because a data set may open its files when it is first used, and
        this process must not have done that when the workers of the training are made from it.
        """
        given = self._given
        if given.num_workers == 0:
            fetched: Iterable[Any] = map(self._seeded.__getitems__, lists)
        else:
            once: DataLoader[Any] = DataLoader(
                self._seeded,
                batch_sampler=lists,
                collate_fn=as_fetched,
                num_workers=1,
                timeout=given.timeout,
                worker_init_fn=given.worker_init_fn,
                multiprocessing_context=given.multiprocessing_context,
            )
            fetched = once
        for each in fetched:
            if not isinstance(each.batch, list):
                raise TypeError("the data set returns whole batches")
            yield each.batch

    def collated(self, examples: Sequence[Any]) -> tuple[int, Any]:
        """(number of examples, batch) of some examples that were `fetched`."""
        copied = copy.deepcopy(list(examples))  # a collate function may change them
        return sum(example is not None for example in copied), self._given.collate_fn(copied)

    def fetched_apart(self, lists: Sequence[SeededList]) -> Iterator[tuple[int, Any]]:
        """(number of examples, batch) of some lists of indices, see `fetching.fetched_apart`."""
        return fetched_apart(self._given, lists)

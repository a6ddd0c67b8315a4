"""The loader that carries out a plan: index lists, permutation, state.

An index list goes from the plan through a batch sampler to a DataLoader, and nowhere else. The order of pass p is a function of
(seed, p), and the random numbers of a micro-batch one of (seed, step, micro-batch, rank): what is loaded does not depend on the
number of workers, on prefetching or on restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from noisescale.errors import ConfigError
from noisescale.execution.batched import BatchedDataset
from noisescale.execution.random_generators import seed_random_generators
from noisescale.plans.plan import Cursor, Plan, Update
from noisescale.seeding import derive_seed

__all__ = ["MicroBatch", "PlannedLoader"]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward of one device.

    Args:
        update: the update it belongs to.
        index: j, its place in the update, 0 to k - 1.
        position: where its examples start in the stream of passes.
        size: its examples, n. 0 where the update has fewer examples than there are devices: an example then only fills the place.
    """

    update: Update
    index: int
    position: int
    size: int

    @property
    def is_last(self) -> bool:
        """Whether the update's step follows."""
        return self.index == self.update.accumulate_grad_batches - 1


class PlannedLoader:
    """Iterates over the micro-batches that `plan` gives to device `rank`, one epoch at a time, from where the run stands.

    `len()` is the number of micro-batches of the epoch as the trainer counts it: those done plus those to come. The iterator starts
    lazily at the state that holds at its first `next`, so an iterator that is made and thrown away costs nothing.

    Args:
        source: gives the user's DataLoader; called once, when the loader is first used. Its dataset, collate_fn and workers are
            kept, its batch size is not.
        make_plan: N -> the plan.
        seed: of the permutations and of the random numbers while loading.
        rank: this device, 0 to world_size - 1.
        trainer_epoch: the trainer's count of epochs; when it has moved on, so does the loader.

    Attributes:
        current: the micro-batch that was handed out last.
        handed_out: how many examples the data set gave for it, counted before they are collated. `current.size` unless the data set
            leaves examples out.

    Raises:
        ConfigError: a source that cannot be indexed: an IterableDataset, a sampler of its own, several loaders.
    """

    def __init__(
        self, source: Callable[[], Any], make_plan: Callable[[int], Plan], seed: int, rank: int, trainer_epoch: Callable[[], int]
    ) -> None:
        self._source, self._make_plan = source, make_plan
        self.seed, self.rank, self._trainer_epoch = seed, rank, trainer_epoch
        self._loader: DataLoader[Any] | None = None
        self._plan: Plan | None = None
        self._shuffle = True
        self.current: MicroBatch | None = None
        self.handed_out = 0
        # Where the run stands: the update that comes next or is under way, its micro-batches done, and the batches that the trainer
        # counted in this epoch before it.
        self.epoch, self.trainer_epoch = 0, 0
        self.cursor = Cursor()
        self.micro_batches_done = 0
        self.batches_before_update = 0
        self._to_come: tuple[tuple[int, Cursor], list[Update]] | None = None

    # -- what is loaded -------------------------------------------------------------------------------------------------------

    def open(self) -> Plan:
        """Ask the source for its DataLoader, once; returns the plan."""
        if self._plan is None or self._loader is None:
            loader = self._source()
            self._shuffle = _is_shuffled(loader)
            self._plan = self._make_plan(len(loader.dataset))
            self._permutation = lru_cache(maxsize=2)(self._permute)
            self._dataset: Dataset[Any] = loader.dataset
            self._collate: Callable[[Any], Any] = loader.collate_fn
            self._loader = DataLoader(
                _Seeded(loader.dataset),
                batch_sampler=_IndexLists(self),
                collate_fn=_Counting(loader.collate_fn),
                num_workers=loader.num_workers,
                pin_memory=loader.pin_memory,
                timeout=loader.timeout,
                worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context,
                prefetch_factor=loader.prefetch_factor,
                persistent_workers=loader.persistent_workers,
                generator=torch.Generator().manual_seed(derive_seed("workers", self.seed)),
            )
        return self._plan

    @property
    def plan(self) -> Plan:
        """The plan that is carried out."""
        return self.open()

    @property
    def dataset(self) -> Dataset[Any]:
        """The user's data set."""
        self.open()
        return self._dataset

    def indices(self, position: int, size: int) -> torch.Tensor:
        """The examples at `position` to `position + size` of the stream of passes, int64; pass p is the permutation of (seed, p)."""
        n, parts = self.plan.num_examples, []
        while size > 0:
            number, offset = divmod(position, n)
            parts.append(self._permutation(number)[offset : offset + size])
            position, size = position + len(parts[-1]), size - len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def indices_of(self, micro: MicroBatch) -> torch.Tensor:
        """The examples of a micro-batch, int64 (n,). An empty one still needs an example to run; its loss is weighted with 0."""
        return self.indices(micro.position, micro.size) if micro.size else self.indices(micro.update.start.position, 1)

    def _permute(self, number: int) -> torch.Tensor:
        n = self.plan.num_examples
        if not self._shuffle:
            return torch.arange(n)
        return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed("permutation", self.seed, number)))

    def micro_batches(self) -> Iterator[MicroBatch]:
        """The micro-batches of this device from where the run stands to the end of the epoch."""
        plan, skip = self.plan, self.micro_batches_done
        for update in self._updates_to_come():
            for index, (position, size) in enumerate(plan.pieces(update, self.rank)):
                if index >= skip:
                    yield MicroBatch(update, index, position, size)
            skip = 0

    def _updates_to_come(self) -> list[Update]:
        """The updates from where the run stands to the end of the epoch."""
        place = self.epoch, self.cursor
        if self._to_come is None or self._to_come[0] != place:  # Lightning asks for the length several times in each epoch.
            self._to_come = place, self.plan.updates_of_epoch(self.epoch, self.cursor)
        return self._to_come[1]

    # -- what a trainer sees --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        plan, trainer_epoch = self.plan, self._trainer_epoch()
        if trainer_epoch != self.trainer_epoch:
            # Not by an epoch-end hook: a run resumed from an epoch's last batch never gets there.
            self.epoch, self.trainer_epoch, self.batches_before_update = plan.epoch_of(self.cursor), trainer_epoch, 0
        return self.batches_before_update + sum(update.accumulate_grad_batches for update in self._updates_to_come())

    def __iter__(self) -> Iterator[Any]:
        self.open()
        assert self._loader is not None
        loader, dataset = self._loader, self._dataset
        if isinstance(dataset, BatchedDataset) and loader.num_workers == 0 and not loader.pin_memory:
            for micro in self.micro_batches():
                indices = self.indices_of(micro)
                batch = self._collate(dataset.take(indices))
                self._hand_out(micro, len(indices))
                yield batch
            return
        for micro, (count, batch) in zip(self.micro_batches(), loader, strict=True):
            self._hand_out(micro, count)
            yield batch

    def _hand_out(self, micro: MicroBatch, count: int) -> None:
        self.current, self.handed_out = micro, count if micro.size else 0

    def advance(self) -> None:
        """The current micro-batch is done."""
        assert self.current is not None
        if self.current.is_last:
            self.batches_before_update += self.current.update.accumulate_grad_batches
            self.cursor, self.micro_batches_done = self.plan.after(self.current.update), 0
        else:
            self.micro_batches_done = self.current.index + 1

    def close(self) -> None:
        """Stop the workers; the state stays."""
        self._loader = None

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the run stands, plain numbers."""
        return {
            "epoch": self.epoch,
            "trainer_epoch": self.trainer_epoch,
            "cursor": asdict(self.cursor),
            "micro_batches_done": self.micro_batches_done,
            "batches_before_update": self.batches_before_update,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from where `state` was taken."""
        self.epoch, self.trainer_epoch = state["epoch"], state["trainer_epoch"]
        self.cursor = Cursor(**state["cursor"])
        self.micro_batches_done = state["micro_batches_done"]
        self.batches_before_update = state["batches_before_update"]

    def restart_update(self) -> None:
        """Take up the current update again from its first micro-batch; the trainer has counted those done, so the epoch gets longer."""
        self.batches_before_update += self.micro_batches_done
        self.micro_batches_done = 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the callback keeps the state, for Lightning restores that of loaders only in mid-epoch. Having the pair of methods tells
        it that this loader can resume there."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, see `state_dict`."""


class _IndexLists:
    """A batch sampler: the index lists of the loader's micro-batches, each with the seed of its random numbers."""

    def __init__(self, loader: PlannedLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[_SeededList]:
        loader = self._loader
        for micro in loader.micro_batches():
            seed = derive_seed("loading", loader.seed, micro.update.start.step, micro.index, loader.rank)
            yield _SeededList(loader.indices_of(micro).tolist(), seed)


class _SeededList(list[int]):
    """Indices that carry the seed of the random numbers that loading them may use."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.seed)


class _Seeded(Dataset[Any]):
    """The user's data set; random transforms draw the same numbers whichever worker runs them."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: _SeededList) -> _Counted:
        if isinstance(self.dataset, BatchedDataset):
            return _Counted(len(indices), self.dataset.take(torch.tensor(indices)))
        seed_random_generators(indices.seed)
        batched = getattr(self.dataset, "__getitems__", None)
        examples = batched(list(indices)) if batched else [self.dataset[index] for index in indices]
        return _Counted(len(examples) if isinstance(examples, list) else len(indices), examples)


class _Counted(NamedTuple):
    examples: int
    batch: Any


class _Counting:
    """The user's collate function, and how many examples it was given."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, fetched: Any) -> _Counted:
        return _Counted(fetched.examples, self.collate(fetched.batch))


def _is_shuffled(loader: Any) -> bool:
    """Whether the user's loader is shuffled; raises for one that a plan cannot stand in for."""
    remedy = "give one DataLoader over a data set with a length, with shuffle=True or False"
    if not isinstance(loader, DataLoader):
        raise ConfigError("train_dataloader", type(loader).__name__, "must be one torch DataLoader", remedy)
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise ConfigError(
            "train_dataloader", type(loader.dataset).__name__, "an IterableDataset cannot be cut into planned batches", remedy
        )
    if loader.batch_sampler is None:
        raise ConfigError("train_dataloader", "batch_size=None", "must collate examples into batches", remedy)
    sampler = loader.sampler
    if type(loader.batch_sampler) is torch.utils.data.BatchSampler:
        if type(sampler) is SequentialSampler:
            return False
        if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset):
            return True
        if type(sampler) is DistributedSampler:
            return bool(sampler.shuffle)
    name = type(sampler if type(loader.batch_sampler) is torch.utils.data.BatchSampler else loader.batch_sampler).__name__
    raise ConfigError("train_dataloader", name, "a sampler of its own decides which examples are drawn, and so does the plan", remedy)

"""The loader that carries out a plan: the index list of each micro-batch, and the position of the run.

An index list goes from the plan through a batch sampler to a DataLoader, and nowhere else. The order of pass p depends only on (seed, p),
and the random numbers of a micro-batch only on (seed, step, micro-batch, rank). What is loaded is therefore independent of the number of
workers, of prefetching and of restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import reduce
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from noisescale.execution.examples import Examples
from noisescale.execution.fetching import SeededList
from noisescale.execution.micro_batch import MicroBatch
from noisescale.execution.sampling import Sampling
from noisescale.plans.plan import Cursor, Plan, Stretch, Update
from noisescale.seeding import derive_seed

__all__ = ["PlannedLoader"]


class PlannedLoader:
    """Iterates over the micro-batches that the plan gives to device `rank`, one epoch at a time, from the position of the run.

    `len()` is the number of micro-batches of the epoch as the trainer counts them: those done plus those to come. An iterator reads the
    position at its first `next`, so an iterator that is created and never used costs nothing.

    Args:
        source: returns the user's DataLoader; called once, when the loader is first used. The dataset, collate_fn and workers of that
            DataLoader are kept, its batch size is not used.
        make_plan: N -> the plan, apart from its `replacement`, which depends on how the source draws.
        seed: the seed of the orders of the passes and of the random numbers drawn while loading.
        rank: the rank of this device, 0 to world_size - 1.
        trainer_epoch: returns the trainer's current epoch; when it changes, the loader starts a new epoch too.
        sampling: how a pass draws its examples; None: as the source does.

    Attributes:
        current: the micro-batch that was loaded last; None before the first.
        handed_out: how many examples the data set gave for it, counted before they are collated: `current.size`, unless the data set
            leaves examples out.
        weight: its weight in the update, set by whoever trains with it; None: its number of examples.

    Raises:
        ConfigError: on first use, if the examples of the source cannot be indexed: an IterableDataset, a custom sampler, several loaders.
    """

    def __init__(
        self,
        source: Callable[[], Any],
        make_plan: Callable[[int], Plan],
        seed: int,
        rank: int,
        trainer_epoch: Callable[[], int],
        sampling: Sampling | None = None,
    ) -> None:
        self._source, self._make_plan, self._chosen = source, make_plan, sampling
        self.seed, self.rank, self._trainer_epoch = seed, rank, trainer_epoch
        self._examples: Examples | None = None
        self._loader: DataLoader[Any] | None = None
        self._plan: Plan | None = None
        self.current: MicroBatch | None = None
        self.handed_out = 0
        self.weight: float | None = None
        # The position of the run: its epoch and where that starts, the current or next update, how many micro-batches of it are done,
        # and how many batches the trainer counted in this epoch before it.
        self.epoch, self.trainer_epoch = 0, 0
        self.epoch_start = self.cursor = Cursor()
        self.micro_batches_done = 0
        self.batches_before_update = 0
        self.observed: list[tuple[int, dict[str, float]]] = []  # what was measured, and the epoch from which on the plan knows it
        self._undecided: Plan | None = None
        self._to_come: tuple[tuple[int, Cursor], int] | None = None

    # -- what is loaded -------------------------------------------------------------------------------------------------------

    def open(self) -> Plan:
        """Get the DataLoader from the source, unless that is done already; returns the plan."""
        if self._plan is None or self._loader is None:
            self._examples = Examples(self._source(), self.seed, self._chosen)
            self._undecided = replace(self._make_plan(self._examples.num_examples), replacement=self.sampling.replacement)
            self._decide()
            self._loader = self._examples.loader_of(_IndexLists(self))
        assert self._plan is not None
        return self._plan

    @property
    def examples(self) -> Examples:
        """The examples of the source, with its workers."""
        self.open()
        assert self._examples is not None
        return self._examples

    @property
    def sampling(self) -> Sampling:
        """How a pass draws its examples; known once the loader is open."""
        return Sampling() if self._examples is None else self._examples.sampling

    def observe(self, epoch: int, values: dict[str, float]) -> None:
        """Let the plan know what was measured before the updates from `epoch` on, none of which has been loaded."""
        self.observed = [*self.observed, (epoch, values)]
        self._decide()

    def _decide(self) -> None:
        self._to_come = None
        if self._undecided is not None:
            self._plan = reduce(lambda plan, reading: plan.observed(*reading), self.observed, self._undecided)

    @property
    def plan(self) -> Plan:
        """The plan that is carried out."""
        return self.open() if self._plan is None else self._plan

    def limit_micro_batches(self, size: int | None) -> None:
        """Change the most examples that one device processes at once, before the first micro-batch; None: no limit."""
        self._plan, self._to_come = replace(self.plan, max_micro_batch_size=size), None

    @property
    def dataset(self) -> Dataset[Any]:
        """The user's data set."""
        return self.examples.dataset

    @property
    def micro(self) -> MicroBatch:
        """`current`, in a training step."""
        assert self.current is not None
        return self.current

    def indices(self, position: int, size: int) -> torch.Tensor:
        """The examples at `position` to `position + size - 1` of the stream of passes, see `Examples.indices`."""
        return (self._examples or self.examples).indices(position, size)

    def indices_of(self, micro: MicroBatch) -> torch.Tensor:
        """The examples of a micro-batch, int64 (n,). An empty one still needs examples to run on; its loss has the weight 0."""
        if micro.size:
            return self.indices(micro.position, micro.size)
        return self.indices(micro.update.start.position, self.plan.min_micro_batch_size)

    def micro_batches(self) -> Iterator[MicroBatch]:
        """The micro-batches of this device from the position of the run to the end of the epoch."""
        plan, skip = self.plan, self.micro_batches_done
        for update in self._updates_to_come():
            for index, (position, size) in enumerate(plan.pieces(update, self.rank)):
                if index >= skip:
                    yield MicroBatch(update, index, position, size)
            skip = 0

    def _updates_to_come(self) -> Iterator[Update]:
        """The updates from the position of the run to the end of the epoch."""
        return self._whole_epochs().updates_of_epoch(self.epoch, self.cursor)

    def _micro_batches_to_come(self) -> int:
        """The number of their micro-batches, including those of the current update that are done."""
        place = self.epoch, self.cursor
        if self._to_come is None or self._to_come[0] != place:  # Lightning asks for the length several times in each epoch.
            plan = self._whole_epochs()
            found = plan.sizes_of_epoch(self.epoch, self.cursor)
            self._to_come = place, sum(map(plan.micro_batches_in, found))
        return self._to_come[1]

    def _whole_epochs(self) -> Plan:
        """The plan without its `max_updates`: an epoch inside which the trainer stops is not a shorter epoch, see `stops`."""
        return self.plan if self.plan.max_updates is None else replace(self.plan, max_updates=None)

    def sizes_of_epoch(self) -> Iterator[Stretch]:
        """All updates of the epoch of the run, including those that are done, see `Plan.sizes`."""
        return self._whole_epochs().sizes_of_epoch(self.epoch, self.epoch_start)

    @property
    def epoch_is_over(self) -> bool:
        """Whether all updates of the epoch are done, and no other epoch has begun."""
        return self.cursor != self.epoch_start and self.plan.epoch_of(self.cursor) != self.epoch

    @property
    def inside_epoch(self) -> bool:
        """Whether some micro-batches of the epoch are done and others are not."""
        begun = self.cursor != self.epoch_start or self.micro_batches_done > 0
        return begun and not self.epoch_is_over

    @property
    def batches_done(self) -> int:
        """The micro-batches of the epoch that are done, as the trainer counts them."""
        return self.batches_before_update + self.micro_batches_done

    # -- what a trainer sees --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        plan, trainer_epoch = self.plan, self._trainer_epoch()
        ended = self._loader is None or plan.finished(self.cursor)  # Lightning asks for the length even then
        if trainer_epoch != self.trainer_epoch and self.epoch_is_over and not ended:
            # An epoch-end hook could not do this: a run that is resumed at the last batch of an epoch never calls it.
            self.epoch, self.trainer_epoch, self.batches_before_update = plan.epoch_of(self.cursor), trainer_epoch, 0
            self.epoch_start = self.cursor
        return self.batches_before_update + self._micro_batches_to_come()

    def __iter__(self) -> Iterator[Any]:
        examples, loader = self.examples, self._loader
        assert loader is not None
        if examples.can_be_taken:
            for micro in self.micro_batches():
                count, batch = examples.taken(self.indices_of(micro))
                self._hand_out(micro, count)
                yield batch
            return
        for micro, (count, batch) in zip(self.micro_batches(), loader, strict=True):
            self._hand_out(micro, count)
            yield batch

    def _hand_out(self, micro: MicroBatch, count: int) -> None:
        self.current, self.handed_out = micro, count if micro.size else 0

    def begin(self) -> None:
        """Take over the trainer's current epoch, unless the run is somewhere in one: the trainer may have trained without this loader."""
        if not self.epoch_is_over and not self.inside_epoch:
            self.trainer_epoch = self._trainer_epoch()

    def advance(self) -> None:
        """Move on after the current micro-batch, which is done."""
        micro = self.micro
        if micro.is_last:
            self.batches_before_update += micro.update.accumulate_grad_batches
            self.cursor, self.micro_batches_done = self.plan.after(micro.update), 0
        else:
            self.micro_batches_done = micro.index + 1

    def close(self) -> None:
        """Stop the workers; the position is kept."""
        self._loader = None

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The position of the run, in plain numbers."""
        return {
            "epoch": self.epoch,
            "trainer_epoch": self.trainer_epoch,
            "epoch_start": asdict(self.epoch_start),
            "cursor": asdict(self.cursor),
            "micro_batches_done": self.micro_batches_done,
            "batches_before_update": self.batches_before_update,
            **({"observed": [[epoch, values] for epoch, values in self.observed]} if self.observed else {}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from where `state` was taken."""
        self.epoch, self.trainer_epoch = state["epoch"], state["trainer_epoch"]
        self.epoch_start, self.cursor = Cursor(**state["epoch_start"]), Cursor(**state["cursor"])
        self.micro_batches_done = state["micro_batches_done"]
        self.batches_before_update = state["batches_before_update"]
        self.observed = [(epoch, dict(values)) for epoch, values in state.get("observed", ())]
        self._decide()

    def restart_update(self) -> None:
        """Repeat the current update from its first micro-batch; the epoch gets longer, because the trainer has counted those done."""
        self.batches_before_update += self.micro_batches_done
        self.micro_batches_done = 0

    def state_dict(self) -> dict[str, Any]:
        """Empty: the callback saves the position, because Lightning restores the state of loaders only inside an epoch.

        A loader that has `state_dict` and `load_state_dict` tells Lightning that it can resume inside an epoch.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, see `state_dict`."""


class _IndexLists:
    """A batch sampler: the index lists of the loader's micro-batches, each with the seed of its random numbers."""

    def __init__(self, loader: PlannedLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[SeededList]:
        loader = self._loader
        for micro in loader.micro_batches():
            seed = derive_seed("loading", loader.seed, micro.update.start.step, micro.index, loader.rank)
            yield SeededList(loader.indices_of(micro).tolist(), seed)

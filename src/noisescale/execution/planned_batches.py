"""The micro-batches of a plan for a training loop of one's own, without Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import DataLoader

from noisescale.errors import ConfigError
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.micro_batch import MicroBatch
from noisescale.execution.random_generators import seed_random_generators
from noisescale.execution.sampling import chosen_sampling
from noisescale.plans.plan import Cursor, Plan
from noisescale.seeding import derive_seed

__all__ = ["PlannedBatches"]


class PlannedBatches:
    """Iterates over (micro-batch, batch) from the position of the run to the end of its epoch: what BatchSizeScheduler does in a Trainer.

    The loop multiplies the mean loss over the n examples of each batch with `micro.share`, n/B, sets the learning rate to lr0
    `micro.lr_factor`, and steps where `micro.is_last`. The gradient of each update is then that of one big batch of its B examples. With
    DistributedDataParallel, which averages over W devices, the factor is W `micro.share`.

    The order of pass p is a function of (seed, p), and the generators of torch, numpy and random are seeded for each micro-batch, so that
    the loop draws the same numbers (for dropout) whether it is resumed or not.

    Args:
        plan: every update; it must have the N of the data.
        loader: its data set, collate_fn, workers and shuffle are used, its batch size is not.
        seed: the seed of the order of the examples and of all random numbers.
        sampling_weights, replacement: as in BatchSizeScheduler.
        rank: the rank of this device, 0 to W - 1, where W is the plan's `world_size`.

    Raises:
        ConfigError: the loader cannot be planned, or the plan is not for it: another N, or `replacement` differs;
            the plan is decided during the training.
    """

    def __init__(
        self,
        plan: Plan,
        loader: DataLoader[Any],
        *,
        seed: int = 0,
        sampling_weights: Sequence[float] | torch.Tensor | None = None,
        replacement: bool | None = None,
        rank: int = 0,
    ) -> None:
        if rank not in range(plan.world_size):
            raise ConfigError("rank", rank, f"must be a whole number in [0, {plan.world_size - 1}]", "Plan(world_size=...) is W")

        if plan.monitors:
            remedy = "use BatchSizeScheduler in a Trainer"
            raise ConfigError("plan", " and ".join(sorted(plan.monitors)), "a loop of one's own does not hand over what it goes by", remedy)

        def check(num_examples: int) -> Plan:
            if num_examples != plan.num_examples:
                problem = f"the loader draws from {num_examples} examples"
                raise ConfigError("num_examples", plan.num_examples, problem, "give the plan that N")
            return plan

        self._loader = PlannedLoader(lambda: loader, check, seed, rank, lambda: 0, chosen_sampling(sampling_weights, replacement))
        self.plan = self._loader.open()
        if self.plan.replacement != plan.replacement:
            found = "with" if self.plan.replacement else "without"
            raise ConfigError("replacement", plan.replacement, f"the examples are drawn {found} replacement", "give Plan(replacement=...)")

    @property
    def epoch(self) -> int:
        """The whole epoch of the next micro-batch."""
        return self.plan.epoch_of(self._loader.cursor)

    def __iter__(self) -> Iterator[tuple[MicroBatch, Any]]:
        loader = self._loader
        if self.plan.finished(loader.cursor):
            return
        loader.epoch = self.epoch
        for batch in loader:
            micro = loader.current
            assert micro is not None
            loader.advance()
            seed_random_generators(derive_seed("training", loader.seed, micro.update.start.step, micro.index, loader.rank))
            yield micro, batch
            if self.plan.finished(loader.cursor):  # the loader knows no `max_updates`, see `stops`
                return

    def state_dict(self) -> dict[str, Any]:
        """The position of the run, in plain numbers: the update after the last one whose micro-batches were all handed out.

        Save it after the optimizer's step. A run that is resumed from inside an update repeats that update from its first micro-batch.
        """
        return asdict(self._loader.cursor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._loader.cursor, self._loader.micro_batches_done = Cursor(**state), 0

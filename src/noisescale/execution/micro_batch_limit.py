"""The most examples that one device processes at once in a training: a number, no limit, or what is found before the first update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info

from noisescale.errors import ConfigError
from noisescale.execution.batched import BatchedDataset
from noisescale.execution.fetching import SeededList
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.memory import free_memory
from noisescale.execution.micro_batch_search import Found, fits, search
from noisescale.execution.rehearsal import Rehearsal, loss_of_step, shared_tensors, twin_optimizer
from noisescale.execution.trial import Trial, trial_of
from noisescale.plans.checks import AUTO, check_micro_batch_limit, check_micro_batch_margin
from noisescale.plans.plan import Plan
from noisescale.plans.trainer_limits import check_pieces, stretches_of_every_size
from noisescale.seeding import derive_seed

__all__ = ["MicroBatchLimit"]

KEY = "max_micro_batch_size"

EXAMPLES = 64
"""Examples that a search takes from the data, spread over a pass; larger micro-batches repeat them."""


class MicroBatchLimit:
    """`max_micro_batch_size` of a `BatchSizeScheduler`: a number of examples, None for no limit, or "auto" for the most that fit.

    Args:
        given: that.
        margin: see `search`.

    Attributes:
        value: the limit; None: there is none, or it is not known yet.
    """

    def __init__(self, given: int | str | None, margin: float) -> None:
        check_micro_batch_limit(KEY, given, remedy=f'"{AUTO}" for the most that fit, None for no limit')
        check_micro_batch_margin("micro_batch_margin", margin)
        self._given, self._margin = given, margin
        self.start()

    def start(self) -> None:
        """Before a `fit`: what an earlier one has found does not count."""
        self.value: int | None = self._given if isinstance(self._given, int) else None
        self._known = self._given != AUTO

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it, so that a run that goes on uses the same and does not search again."""
        return {KEY: self.value} if self._given == AUTO and self._known else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what was found from a checkpoint, if this run would search."""
        if self._given == AUTO and KEY in state:
            self.value, self._known = state[KEY], True

    def find(self, trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader) -> None:
        """Find the limit, unless it is known, and let the plan of the loader obey it.

        Raises:
            ConfigError: nothing fits, or the module cannot be run before its training.
        """
        if not self._known:
            self.value, self._known = self._found(trainer, module, loader), True
        if loader.plan.max_micro_batch_size != self.value:
            loader.limit_micro_batches(self.value)
            check_pieces(loader.plan)

    def _found(self, trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader) -> int | None:
        device = trainer.strategy.root_device
        if not has_memory_of_its_own(device):
            rank_zero_info(f"note: {KEY}={AUTO} sets no limit on the CPU, which has no memory of its own that could be searched")
            return None
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            name = type(trainer.strategy).__name__
            raise ConfigError(KEY, AUTO, f"{name} divides the module among the devices", "give a number, or null for no limit")
        plan, started = loader.plan, time.monotonic()
        needed = _most_needed(plan)
        try:
            with _rehearsal(trainer, module, loader) as (rehearsal, batch):
                found = search(
                    partial(_all_fit, trainer, rehearsal, batch),
                    needed,
                    multiple=plan.micro_batch_multiple,
                    at_least=min(needed, 2 * plan.min_micro_batch_size - 1),
                    margin=self._margin,
                )
        except ConfigError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            raise ConfigError(KEY, AUTO, f"cannot be searched ({reason})", "give a number, or null for no limit") from error
        free_memory()
        if not found.size:
            problem = f"not even the smallest micro-batch fits on {device}"
            raise ConfigError(KEY, AUTO, problem, "use a smaller model, or another device")
        rank_zero_info(_in_words(found, needed, self._margin, time.monotonic() - started))
        return found.size


def has_memory_of_its_own(device: torch.device) -> bool:
    """Whether a device says when its memory has run out. For the CPU the system swaps, or ends processes."""
    return device.type != "cpu"


def _in_words(found: Found, needed: int, margin: float, seconds: float) -> str:
    tried = f"{found.tried} sizes run in {seconds:.1f} s"
    if found.size >= needed:
        return f"{KEY}={AUTO}: {found.size}, as many as an update gives a device, fit ({tried})"
    return f"{KEY}={AUTO}: {found.size}; {found.largest} fitted, less a margin of {100 * margin:g} % ({tried})"


def _most_needed(plan: Plan) -> int:
    """The largest micro-batch of the plan if there is no limit, as a multiple of the ghost batch."""
    largest = max((stretch.effective_batch_size for stretch in stretches_of_every_size(plan)), default=1)
    if plan.epochs is None and plan.max_updates is None:  # of a plan without an end not all updates are looked at
        largest = plan.num_examples
    share = ceil(ceil(largest / plan.micro_batch_multiple) / plan.world_size) * plan.micro_batch_multiple
    return min(share, plan.strategy.micro_batch_size or share)


def _all_fit(trainer: pl.Trainer, rehearsal: Rehearsal, batch: Callable[[int], Any], size: int) -> bool:
    """Whether a micro-batch fits on all devices, each of which has tried it."""
    fitted = fits(rehearsal, batch, size)
    if trainer.world_size == 1:
        return fitted
    failed = torch.tensor(float(not fitted), device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(failed, reduce_op="max")) == 0.0


@contextmanager
def _rehearsal(trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader) -> Iterator[tuple[Rehearsal, Callable[[int], Any]]]:
    """A rehearsal in the precision of the training, and n -> a batch of n examples of its data on the device."""
    optimizer = trainer.optimizers[0]
    with shared_tensors(module, optimizer) as shared, trial_of(trainer, module, loader, shared) as trial:

        def loss(twin: Any, batch: Any) -> torch.Tensor:
            with trainer.precision_plugin.forward_context():
                return loss_of_step(twin, batch)

        yield Rehearsal(trial.twin, twin_optimizer(optimizer, shared), loss, module), _batches(trial, loader)


def _batches(trial: Trial, loader: PlannedLoader) -> Callable[[int], Any]:
    plan = loader.plan
    count = min(plan.num_examples, EXAMPLES)
    chosen = torch.cat([loader.indices(i * plan.num_examples // count, 1) for i in range(count)])
    if isinstance(loader.dataset, BatchedDataset):
        return lambda size: trial.as_trained(loader.examples.taken(chosen[torch.arange(size) % count])[1])
    (examples,) = loader.examples.fetched([SeededList(chosen.tolist(), derive_seed("micro-batch search", loader.seed))])
    return lambda size: trial.as_trained(loader.examples.collated([examples[i % count] for i in range(size)])[1])

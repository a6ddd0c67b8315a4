"""The loss of a LightningModule on fixed training examples, as a `LossSurface`: measured on a copy, without a trace in the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, IterableDataset

from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.compatibility import untyped
from noisescale.execution.fetching import SeededList, fetched_apart
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.trial import Trial, trial_of
from noisescale.measures.loss_surface import Chunk, LossSurface
from noisescale.plans.curvature_options import CurvatureOptions
from noisescale.seeding import derive_seed

__all__ = ["CannotMeasure", "Measured", "measured"]

REPEATABLE = 1e-5
"""Two evaluations at the same weights may differ by so much, relatively, on a device that sums in any order."""


class CannotMeasure(RuntimeError):
    """The loss of the module cannot be measured as a function of its weights; the message says why, as a clause."""


@dataclass(frozen=True)
class Measured:
    """A module whose loss is being measured.

    Attributes:
        surface: the loss on the fixed examples.
        module: the copy that is measured; its weights and buffers may be changed.
        examples: how many there are.
        num_examples: N, of the whole training set.
        chunks: how many forward passes the loss on the fixed examples takes on this device.
        batches: (B, number) -> so many batches of B random examples of the whole training set, each as the chunks of this device; a
            single one if B is N.
    """

    surface: LossSurface
    module: pl.LightningModule
    examples: int
    num_examples: int
    chunks: int
    batches: Callable[[int, int], Iterator[list[Chunk]]]


@contextmanager
def measured(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    options: CurvatureOptions,
    weight: Callable[[Any], float] | None = None,
    advance: Callable[[], None] | None = None,
) -> Iterator[Measured]:
    """The loss of `training_step`, on examples of the train DataLoader, as a function of the weights of the module.

    It is the plain mean over the examples, or over what `weight` counts, whatever sampling weights the training draws with; without weight
    decay, without the augmentation of the template, and at least in float32. Random numbers of data set transforms, of dropout and of
    `training_step` are the same in each evaluation. Several devices share the examples, and all of them get the same numbers.

    Args:
        trainer: inside `fit`.
        module: the module, on its device.
        options: which examples, in which chunks, in which mode.
        weight: batch -> the denominator of its loss; None: that of the `BatchSizeScheduler`, otherwise the number of examples.
        advance: called after each forward pass.

    Raises:
        CannotMeasure: the loss is not such a function, or the examples cannot be indexed.
        RuntimeError: the module cannot be copied, or uses what a copy must not use.
    """
    loader = trainer.train_dataloader
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise CannotMeasure(f"{type(trainer.strategy).__name__} divides the module among the devices")
    if not isinstance(loader, (PlannedLoader, DataLoader)) or isinstance(loader.dataset, IterableDataset):
        raise CannotMeasure("the training examples are not those of one DataLoader over a data set with a length")
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), trial_of(trainer, module, cast(PlannedLoader, loader)) as trial:
        # The fused kernels of attention cannot be differentiated twice; and augmentation is for training.
        trial.twin.trainer.__dict__["training"] = False
        trial.twin.train(options.mode == "train")
        parameters = [parameter for parameter in trial.twin.parameters() if parameter.requires_grad]
        examples = _Examples(trainer, trial, loader, options, weight or _weight_of(trainer))
        if not parameters:
            raise CannotMeasure("no parameter is trained")
        fixed = examples.fixed()
        _check_function(trial, parameters, fixed, options.seed)
        surface = LossSurface(lambda batch: trial.loss(batch, options.seed), parameters, fixed, examples.total, advance)
        first, second = surface.loss(), surface.loss()
        if math.isfinite(first) and not abs(first - second) <= REPEATABLE * abs(first):
            raise CannotMeasure(f"the loss is not a function of the weights: {first:.6g}, and again at the same ones {second:.6g}")
        yield Measured(surface, trial.twin, examples.count, examples.n, len(fixed), examples.batches)


class _Examples:
    """The examples that are measured, cut into chunks of which each device has its share."""

    def __init__(
        self,
        trainer: pl.Trainer,
        trial: Trial,
        loader: PlannedLoader | DataLoader[Any],
        options: CurvatureOptions,
        weight: Callable[[Any], float] | None,
    ) -> None:
        self._trainer, self._trial, self._loader, self._options, self._weight = trainer, trial, loader, options, weight
        self.n = len(loader.dataset)  # type: ignore[arg-type]
        self.count = self.n if options.examples is None else min(options.examples, self.n)
        if self.count < trainer.world_size:
            raise CannotMeasure(f"{self.count} examples are too few for {trainer.world_size} devices")

    def fixed(self) -> list[Chunk]:
        return self._chunks(self._drawn(self.count, "examples of curvature", 0), 0)

    def batches(self, size: int, number: int) -> Iterator[list[Chunk]]:
        for i in range(number if size < self.n else 1):
            yield self._chunks(self._drawn(min(size, self.n), "batch of curvature", i), i + 1)

    def total(self, summed: Tensor) -> Tensor:
        """The sum of a vector over all devices."""
        if self._trainer.world_size == 1:
            return summed
        there = summed.to(self._trainer.strategy.root_device)
        return cast(Tensor, self._trainer.strategy.reduce(there, reduce_op="sum")).cpu()

    def _drawn(self, count: int, purpose: str, number: int) -> Tensor:
        """`count` of the N examples, without replacement, in their order."""
        generator = torch.Generator().manual_seed(derive_seed(purpose, self._options.seed, number))
        return torch.randperm(self.n, generator=generator)[:count].sort().values

    def _chunks(self, indices: Tensor, number: int) -> list[Chunk]:
        """The chunks of this device; all devices have equally many, if there are enough examples."""
        world, rank = self._trainer.world_size, self._trainer.global_rank
        pieces = torch.tensor_split(indices, world * -(-len(indices) // (world * self._options.chunk_size)))
        own = [(i, piece.tolist()) for i, piece in enumerate(pieces) if i % world == rank and len(piece)]
        lists = [SeededList(piece, derive_seed("loading for curvature", self._options.seed, number, i)) for i, piece in own]
        planned = isinstance(self._loader, PlannedLoader)
        fetched = self._loader.examples.fetched_apart(lists) if planned else fetched_apart(self._loader, lists)  # type: ignore[union-attr, arg-type]
        chunks = [(count, self._trial.on_device(batch)) for count, batch in fetched]
        return [(count if self._weight is None else self._weight(batch), batch) for count, batch in chunks]


def _weight_of(trainer: pl.Trainer) -> Callable[[Any], float] | None:
    planned = next((each for each in untyped(trainer).callbacks if isinstance(each, BatchSizeScheduler)), None)
    return None if planned is None else planned.weight


def _check_function(trial: Trial, parameters: list[torch.nn.Parameter], chunks: list[Chunk], seed: int) -> None:
    """Raise an error unless the loss is one of the parameters of the copy, and can be differentiated twice."""
    if not chunks:
        return
    _, batch = chunks[0]
    loss = trial.loss(batch, seed)
    if not loss.requires_grad:
        raise CannotMeasure("the loss does not depend on the parameters")
    trial.run(batch, 1, seed)  # raises if it uses parameters that the copy shares with the module
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    squares = [g.square().sum() for g in gradient if g is not None and g.requires_grad]
    if squares:
        # A whole backward pass: one that looks only for the gradients of `parameters` passes over functions that are marked as
        # differentiable once, without an error.
        torch.stack(squares).sum().backward()
    for parameter in parameters:
        parameter.grad = None

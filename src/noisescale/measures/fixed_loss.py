"""The loss of a module on training examples that stay the same, and the noise of its gradients there: on a copy, without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from noisescale.execution.fetching import SeededList
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.trial import trial_of
from noisescale.measures.gradients import Piece, estimate, sums_of
from noisescale.seeding import derive_seed

__all__ = ["FixedExamples", "gradient_noise"]


class FixedExamples:
    """Examples of the training set, which do not depend on the batches, the rate or the seed of a training.

    The loss is that of `training_step`, as a mean over them, without dropout. Batch norm uses the statistics of the chunks, which are the
    same for every training, and not its running statistics, which lag behind after a few large updates. Augmentation of the template is
    left out; a random transform of the user's own draws the same numbers each time.

    Args:
        examples: the most examples; all, if there are fewer.
        seed: which ones.
        chunk_size: examples of one forward pass.
        weight: batch -> the denominator of its loss; None: its number of examples.
    """

    def __init__(self, examples: int, seed: int = 0, chunk_size: int = 256, weight: Callable[[Any], Any] | None = None) -> None:
        self.examples, self.seed, self.chunk_size, self.weight = examples, seed, chunk_size, weight

    def loss(self, trainer: pl.Trainer, module: pl.LightningModule) -> float:
        """The loss, to be called inside `fit`; the training is bitwise the same with the call and without it."""
        with trial_of(trainer, module, _loader(trainer)) as trial, torch.no_grad():
            trial.twin.trainer.__dict__["training"] = False
            trial.twin.eval()
            for layer in trial.twin.modules():
                if isinstance(layer, _BatchNorm):
                    layer.train()
            total, weights = 0.0, 0.0
            for number, (count, batch) in enumerate(self._chunks(trainer)):
                there = trial.on_device(batch)
                weight = count if self.weight is None else float(self.weight(there))
                if weight:
                    total += weight * float(trial.loss(there, derive_seed("fixed examples", self.seed, number)))
                    weights += weight
        return total / weights if weights else math.nan

    def gradient_noise(self, trainer: pl.Trainer, module: pl.LightningModule, pieces: int = 64) -> tuple[float, float]:
        """(tr(Sigma), |G|^2) from the gradients of equal pieces of the examples at the weights of the module, see `gradient_noise`."""
        loader = _loader(trainer)
        n = min(self.examples, loader.plan.num_examples)
        size = max(n // pieces, loader.plan.min_micro_batch_size)
        squares: list[float] = []
        total: list[Tensor] = []
        with trial_of(trainer, module, loader) as trial:
            trial.twin.trainer.__dict__["training"] = False
            for number, (count, batch) in enumerate(self._chunks(trainer, size)):
                if count != size:
                    continue
                gradient = trial.run(trial.on_device(batch), count, derive_seed("pieces", self.seed, number)).gradient
                squares.append(sum(float(part.double().square().sum()) for part in gradient))
                total = [part.double() for part in gradient] if not total else [a + b for a, b in zip(total, gradient, strict=True)]
        whole = sum(float(part.square().sum()) for part in total) / max(len(squares), 1) ** 2
        return gradient_noise(squares, whole, size)

    def _chunks(self, trainer: pl.Trainer, size: int | None = None) -> Iterator[tuple[int, Any]]:
        loader = _loader(trainer)
        n = loader.plan.num_examples
        generator = torch.Generator().manual_seed(derive_seed("fixed examples", self.seed))
        indices = torch.randperm(len(loader.dataset), generator=generator)[: min(self.examples, n)]  # type: ignore[arg-type]
        most = min(self.chunk_size, loader.plan.max_micro_batch_size or self.chunk_size)
        pieces = torch.tensor_split(indices, -(-len(indices) // most)) if size is None else indices.split(size)
        return loader.examples.fetched_apart(
            [SeededList(piece.tolist(), derive_seed("loading", self.seed, i)) for i, piece in enumerate(pieces)]
        )


def _loader(trainer: pl.Trainer) -> PlannedLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, PlannedLoader)
    return loader


def gradient_noise(squares: list[float], whole: float, size: int) -> tuple[float, float]:
    """tr(Sigma) = (mean |G_i|^2 - |G_B|^2) B/(P-1),  |G|^2 = |G_B|^2 - tr(Sigma)/B, without bias, from P pieces of n examples, B = P n.

    B_simple is their ratio, undefined where |G|^2 is not above 0. Not to be confused with g = lr (N/B - 1), nor with the critical batch.

    Args:
        squares: |G_i|^2 of each piece.
        whole: |G_B|^2 of their mean.
        size: n.

    Source: McCandlish et al. 1812.06162, appendix A.1.
    """
    found = estimate(sums_of(Piece(size, size, square) for square in squares), whole)
    return (math.nan, math.nan) if found is None else (found.grad_cov_trace, found.grad_sq_norm)

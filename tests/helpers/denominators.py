"""Losses whose denominator is not the number of examples: padded sequences, class weights, masks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from noisescale.execution.loader import PlannedLoader

N = 103
TOKENS = 12
PADDING = -100


class Sequences(Dataset[tuple[Tensor, Tensor]]):
    """103 sequences of 1 to 6 tokens; the target is the next token. Those of one token have no target, and so no loss."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        lengths = torch.randint(1, 7, (N,), generator=generator).tolist()
        self.sequences = [torch.randint(0, TOKENS, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sequence = self.sequences[index]
        return sequence, torch.cat([sequence[1:], torch.tensor([PADDING])])


def padded(examples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(tokens, targets), each int64 (n, longest)."""
    tokens, targets = zip(*examples, strict=True)
    pad = nn.utils.rnn.pad_sequence
    return pad(list(tokens), batch_first=True), pad(list(targets), batch_first=True, padding_value=PADDING)


def class_weights(dtype: torch.dtype) -> Tensor:
    return torch.linspace(0.1, 3.0, TOKENS, dtype=dtype)


def token_mean(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=PADDING)


def weighted_mean(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=PADDING, weight=class_weights(logits.dtype).to(logits.device))


def masked_mean(logits: Tensor, targets: Tensor) -> Tensor:
    """Written by hand, so that it is 0/0 where there is no target, and so are its derivatives."""
    mask = (targets != PADDING).to(logits.dtype)
    picked = logits.log_softmax(1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return -(picked * mask).sum() / mask.sum()


def count_targets(batch: tuple[Tensor, Tensor]) -> Tensor:
    return (batch[1] != PADDING).sum()


def sum_class_weights(batch: tuple[Tensor, Tensor]) -> float:
    targets = batch[1]
    return float(class_weights(torch.float64)[targets[targets != PADDING].cpu()].sum())


PROBLEMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Any], Any]]] = {
    "token mean": (token_mean, count_targets),
    "class weights": (weighted_mean, sum_class_weights),
    "mask": (masked_mean, count_targets),
}


class NextToken(pl.LightningModule):
    """Predicts the next token from the last one, with one of the losses above."""

    def __init__(self, problem: str, dtype: torch.dtype, lr: float = 0.3) -> None:
        super().__init__()
        self.loss, self.lr = PROBLEMS[problem][0], lr
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.Sequential(nn.Embedding(TOKENS, 6), nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, TOKENS)).to(dtype)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        tokens, targets = batch
        return self.loss(self.net(tokens).flatten(0, 1), targets.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Sequences(), batch_size=8, shuffle=True, collate_fn=padded)


class BigBatches(pl.Callback):
    """Compares each update with its examples as one batch, in float64: the gradient, relative to its norm, and the loss."""

    def __init__(self) -> None:
        self.errors: list[float] = []
        self.losses: list[float] = []
        self.weights: list[int] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        loader = trainer.train_dataloader
        assert isinstance(loader, PlannedLoader)
        assert loader.current is not None
        assert isinstance(pl_module, NextToken)
        update = loader.current.update
        data, indices = Sequences(), loader.indices(update.start.position, update.effective_batch_size).tolist()
        tokens, targets = padded([data[index] for index in indices])
        twin = copy.deepcopy(pl_module.net).cpu().double()
        twin.zero_grad()
        loss = pl_module.loss(twin(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        expected = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
        found = torch.cat([p.grad.flatten() for p in pl_module.net.parameters() if p.grad is not None]).cpu()
        self.errors.append(float((found - expected).norm() / expected.norm()))
        self.losses.append(float(loss.detach()))
        self.weights.append(int((targets != PADDING).sum()))

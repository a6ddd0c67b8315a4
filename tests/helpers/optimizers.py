"""Optimizers as conf/ describes them, and a small network that they train."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from noisescale.models.optimizers import OptimizerFactory
from tests.helpers.repository import CONF

OPTIMIZERS = CONF / "optimizer"
NAMES = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop_nesterov", "adadelta", "adam", "adamw"]


def factory(name: str, **options: Any) -> OptimizerFactory:
    return OptimizerFactory.from_config(instantiate(OmegaConf.merge(OmegaConf.load(OPTIMIZERS / f"{name}.yaml"), options)))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(48, 6, generator=generator)
    return images, images[:, :3].argmax(1)


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[float]:
    """The losses of `steps` updates, in the precision of the model."""
    images, labels = batch()
    images = images.to(next(model.parameters()).dtype)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))

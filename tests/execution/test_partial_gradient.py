"""The gradient of an unfinished update, restored from a checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.execution.loader import PlannedLoader
from noisescale.plans import strategies as batching
from noisescale.plans.plan import Plan


def test_a_restored_gradient_lies_in_memory_as_its_parameter_does() -> None:
    """A fused optimizer is silently wrong if the two differ, so a gradient from a checkpoint must not keep the memory order of that run."""
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    saved = {name: torch.randn(p.shape) for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trainer = SimpleNamespace(lr_scheduler_configs=[], optimizers=[optimizer], accumulate_grad_batches=1)
    scheduler = BatchSizeScheduler(batching.Fixed(size=4), max_micro_batch_size=2)
    plan = Plan(schedules.Constant(), batching.Fixed(size=4), 8, epochs=1, max_micro_batch_size=2)
    source = DataLoader(TensorDataset(torch.zeros(8, 1)), shuffle=True)
    scheduler.loader = PlannedLoader(lambda: source, lambda n: plan, 0, 0, lambda: 0)
    scheduler._resumed.gradients = dict(saved)
    scheduler.on_train_start(trainer, net)  # type: ignore[arg-type]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, saved[name])
        assert parameter.grad.stride() == parameter.stride()
    assert net.weight.stride() != saved["weight"].stride()

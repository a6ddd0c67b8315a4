"""Run a copy of a module forward and backward before training, without a trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from noisescale.execution.cuts import Pass
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.random_generators import seed_random_generators

__all__ = ["copy_of", "on_device", "run", "unchanged"]


def on_device(trainer: pl.Trainer, module: pl.LightningModule, twin: pl.LightningModule, batch: Any) -> Any:
    """What Lightning does with a batch before `training_step`, but with the hooks of the copy, and in full precision."""

    def hook(name: str, *arguments: Any) -> Any:
        owner = trainer._data_connector._datahook_selector.get_instance(name)  # type: ignore[union-attr]
        return getattr(twin if owner is module else owner, name)(*arguments)

    if module.dtype == torch.float64:
        batch = trainer.precision_plugin.convert_input(batch)
    batch = hook("on_before_batch_transfer", batch, 0)
    batch = hook("transfer_batch_to_device", batch, trainer.strategy.root_device, 0)
    return apply_to_collection(hook("on_after_batch_transfer", batch, 0), Tensor, _in_full_precision)


def _in_full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class _WithoutLoggers:
    """A trainer that has no loggers and no schedulers, which a copy of the module would use."""

    logger: None = None
    loggers: tuple[()] = ()
    lr_scheduler_configs: tuple[()] = ()

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def copy_of(trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader) -> pl.LightningModule:
    """A copy of the module that logs nothing, in float32 where it is in float16 or bfloat16."""
    shared = {id(each): each for each in (loader.dataset, getattr(trainer, "datamodule", None)) if each is not None}
    without: Any = _WithoutLoggers(trainer)
    twin: pl.LightningModule = copy.deepcopy(module, {**shared, id(trainer): without})
    twin.trainer = without  # Lightning leaves the trainer out of copies
    for part in twin.modules():
        if isinstance(part, pl.LightningModule):
            part.__dict__["log"] = part.__dict__["log_dict"] = _log_nothing
    return twin.float() if twin.dtype in (torch.float16, torch.bfloat16) else twin


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def run(trainer: pl.Trainer, twin: pl.LightningModule, batch: Any, n: int, seed: int) -> Pass:
    """One forward and backward pass."""
    seed_random_generators(seed)
    step = twin.training_step
    double = twin.dtype == torch.float64
    with torch.enable_grad(), trainer.precision_plugin.forward_context() if double else nullcontext():
        output = step(batch, 0) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise RuntimeError("training_step returned no loss")
    parameters = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
    return Pass(n, float(loss.detach()), [_dense(p, g) for p, g in zip(parameters, gradient, strict=True)])


def _dense(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Restore the buffers and the gradients of `module`, and all random number generators.

    A copy can share more with the module than it should: a method that was replaced by a function still runs on the module itself.
    """
    buffers = [buffer.clone() for buffer in module.buffers()]
    gradients = [parameter.grad for parameter in module.parameters()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - users' transforms draw from the global generator
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for buffer, value in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(value)

"""Check that nothing in a Trainer conflicts with a plan; each conflict is reported in one line."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch.nn.modules.batchnorm import _BatchNorm

from noisescale.errors import ConfigError
from noisescale.execution.tuner import refuse_searches

__all__ = ["check_compatibility", "check_optimizers", "check_schedulers", "torch_name", "untyped"]


def untyped(trainer: pl.Trainer) -> Any:
    """The same trainer, typed as Any: Lightning sets some of its public attributes where type checkers do not see them."""
    return trainer


def check_optimizers(trainer: pl.Trainer) -> None:
    """Raise `ConfigError` unless the module has given the trainer exactly one optimizer, which a plan can step."""
    given = [type(optimizer).__name__ for optimizer in trainer.optimizers if optimizer.param_groups]
    if len(given) != 1:
        remedy = "return one; its parameter groups may have learning rates of their own"
        raise ConfigError("configure_optimizers", ", ".join(given) or "nothing", "a plan steps exactly one optimizer", remedy)


def check_schedulers(trainer: pl.Trainer, writes_rate: bool) -> None:
    """Raise `ConfigError` if the module has a learning-rate scheduler although the plan sets the learning rate."""
    if writes_rate and trainer.lr_scheduler_configs:
        name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
        remedy = "give BatchSizeScheduler no schedule, or remove the module's scheduler"
        raise ConfigError("lr_scheduler", name, "the plan sets the learning rate", remedy)


def torch_name(optimizer: type) -> str:
    """The name by which the noise rule of an optimizer is known: of a class that is derived from one of torch's, the name of that one."""
    inherited = (each for each in optimizer.__mro__ if each.__module__.startswith("torch.optim.") and each is not torch.optim.Optimizer)
    return next(inherited, optimizer).__name__


def check_compatibility(trainer: pl.Trainer, pl_module: pl.LightningModule, writes_rate: bool) -> None:
    """Check that nothing would make an update differ from the plan.

    Args:
        trainer: the trainer, in its `setup`.
        pl_module: the module that it trains.
        writes_rate: whether the plan sets the learning rate.

    Raises:
        ConfigError: the first conflict.
    """
    refuse_searches(trainer)
    if not pl_module.automatic_optimization:
        raise ConfigError("automatic_optimization", False, "a plan needs automatic optimization", "let Lightning step the optimizer")
    if trainer.strategy.handles_gradient_accumulation:
        name = type(trainer.strategy).__name__
        raise ConfigError("strategy", name, "accumulates gradients by itself, with a fixed count", "use ddp or fsdp")
    if trainer.accumulate_grad_batches != 1:
        remedy = "give the effective size to the strategy and a memory limit as max_micro_batch_size"
        raise ConfigError("accumulate_grad_batches", trainer.accumulate_grad_batches, "is decided by the plan", remedy)
    if untyped(trainer).overfit_batches:
        raise ConfigError(
            "overfit_batches", untyped(trainer).overfit_batches, "would cut a planned epoch", "train on a subset of the examples"
        )
    for callback in untyped(trainer).callbacks:
        name = type(callback).__name__
        if isinstance(callback, GradientAccumulationScheduler):
            raise ConfigError("callbacks", name, "changes accumulate_grad_batches, and so does the plan", "use plans.MultiStep")
        if isinstance(callback, StochasticWeightAveraging):
            if any(isinstance(module, _BatchNorm) for module in pl_module.modules()):
                raise ConfigError("callbacks", name, "steps the optimizer while it updates batch norm", "use WeightAveraging")
            if writes_rate:
                raise ConfigError("callbacks", name, "sets the learning rate, and so does the plan", "use WeightAveraging")

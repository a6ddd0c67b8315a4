"""Build what is trained: the network of `model` with the loss of `task`, or a module of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import nn

from noisescale.app.config import as_plain, build, errors_under, options
from noisescale.app.own import build_own, is_ours, name_of, needed, parameters_of
from noisescale.app.own_data import has_step, sizes
from noisescale.app.targets import BASES, checked, is_users, locate, told
from noisescale.errors import ConfigError
from noisescale.models.building import compute_as
from noisescale.models.optimizers import OptimizerFactory

__all__ = ["MONITORED", "build_module", "build_optimizer", "check_task", "micro_batch_weight"]

HOW = ("channels_last", "compile")
"""Keys of `model` that say how a network is computed; the others are arguments of its class."""

MONITORED = ("monitor", "mode")
"""Keys of `task` that are for the callbacks."""


def check_task(cfg: DictConfig, data: Any) -> None:
    """Raise `ConfigError` if the task needs other targets than the data have; needs no data that are set up."""
    if cfg.module.get("_target_") is not None:
        return
    task = checked("task._target_", cfg.task._target_, BASES["task"])
    needs, has = getattr(task, "TARGETS", None), getattr(data, "targets", None)
    if needs in ("classes", "numbers") and has in ("classes", "numbers") and needs != has:
        remedy = f"use task={'classification' if has == 'classes' else 'regression'}"
        raise ConfigError(
            "task", options().get("task", ""), f"needs {needs} as targets, but data={options().get('data', '')} has {has}", remedy
        )


def build_optimizer(cfg: DictConfig) -> OptimizerFactory:
    """What makes the optimizer of the config; raises `ConfigError` if its class or an option of it cannot be used."""
    if cfg.optimizer.get("_partial_") is not True:
        raise ConfigError("optimizer._partial_", cfg.optimizer.get("_partial_"), "must be true", "an optimizer is made with its parameters")
    make_optimizer = build(cfg, "optimizer")
    with errors_under("optimizer"):
        return OptimizerFactory.from_config(make_optimizer)


def build_module(cfg: DictConfig, data: Any, optimizer: OptimizerFactory) -> pl.LightningModule:
    """The LightningModule of the config, its weights drawn by `seed`.

    Args:
        cfg: the whole config.
        data: the DataModule, set up.
        optimizer: module -> optimizer.

    Raises:
        ConfigError: a class cannot be built, or lacks what training needs.
    """
    pl.seed_everything(cfg.seed, verbose=False)
    if cfg.module.get("_target_") is not None:
        group, module = "module", build_own(cfg, "module", pl.LightningModule, optimizer=optimizer, **sizes(data))
    else:
        net = _network(cfg, data)
        group, module = "task", _task(cfg, data, {"net": net, "optimizer": optimizer})
    assert isinstance(module, pl.LightningModule)
    _forget(module, ("net", "optimizer", "loss"))
    for method in ("training_step", "configure_optimizers"):
        if not has_step(module, method):
            key, _, value = name_of(cfg, group).partition("=")
            raise ConfigError(key, value, f"{type(module).__name__} has no {method}", "define it")
    return module


def micro_batch_weight(cfg: DictConfig) -> Callable[[Any], Any] | None:
    """The function from a batch to the denominator of its loss; None if the loss is a mean over examples.

    Raises:
        ConfigError: `micro_batch_weight` is not the name of a function.
    """
    name = cfg.micro_batch_weight
    if name is None:
        return None
    found = locate("micro_batch_weight", name) if isinstance(name, str) and "." in name else None
    if not callable(found) or not is_users(found):
        problem = f"{'is not a' if callable(found) else 'must be the dotted name of a'} function of your own, batch -> number"
        raise ConfigError("micro_batch_weight", name, problem, "for example my_module.target_tokens")
    function: Callable[[Any], Any] = found
    return function


def _forget(module: pl.LightningModule, names: Iterable[str]) -> None:
    """Take what the template gave the module, functions and networks, out of its hyperparameters: no logger or checkpoint can hold them."""
    for held in (module.hparams, getattr(module, "_hparams_initial", {})):
        for name in names:
            if callable(held.get(name)):
                del held[name]


def _network(cfg: DictConfig, data: Any) -> nn.Module:
    """The network of `model`, for the shape of the data."""
    given, key = sizes(data), name_of(cfg, "model").partition("=")
    channels_last, compiled = cfg.model.get("channels_last", False), cfg.model.get("compile", False)
    shape = given.get("input_shape")
    if compiled and shape is None:
        raise ConfigError("model.compile", compiled, "needs to know the shape of an example", "set self.input_shape in the DataModule")
    net = build_own(cfg, "model", nn.Module, left_out=HOW, **given)
    assert isinstance(net, nn.Module)
    if channels_last and shape is not None and len(shape) != 3:
        raise ConfigError("model.channels_last", True, f"needs images, but an example has the shape {tuple(shape)}", "set it to false")
    if not is_ours(cfg, "model") and is_ours(cfg, "data"):
        _try(key, net, shape, given["num_outputs"])
    return compute_as(net, channels_last=channels_last, compile=compiled)


def _try(key: tuple[str, str, str], net: nn.Module, shape: Any, num_outputs: int) -> None:
    """Raise `ConfigError` unless the user's network turns inputs like those of the data into as many outputs as they need."""
    modes = {layer: layer.training for layer in net.modules()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            outputs = net.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise ConfigError(
            key[0], key[2], f"fails on inputs of shape {(2, *shape)}: {told(error)}", "full_error=true shows where"
        ) from error
    finally:
        for layer, training in modes.items():
            layer.training = training
    found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if found != (2, num_outputs):
        remedy = "its class gets them as num_outputs if it has such a parameter"
        raise ConfigError(key[0], key[2], f"gives {found} for inputs of shape {(2, *shape)}; the data need (2, {num_outputs})", remedy)


def _task(cfg: DictConfig, data: Any, required: dict[str, Any]) -> Any:
    """The module of `task`, with its loss found by name."""
    target: Any = checked("task._target_", cfg.task._target_, BASES["task"])
    loss = as_plain(cfg.task).get("loss")
    if isinstance(loss, str) and loss not in getattr(target, "LOSSES", {loss: None}):
        required["loss"] = _loss(loss, list(target.LOSSES))
    return build_own(cfg, "task", pl.LightningModule, left_out=MONITORED, required=required, **sizes(data))


def _loss(name: str, known: list[str]) -> Any:
    """The function with a dotted name, or an object of the class with that name, which must need no arguments."""
    if "." not in name:
        problem = f"must be one of {', '.join(known)}, or the dotted name of a function (outputs, targets) -> mean over the batch"
        raise ConfigError("task.loss", name, problem, "for example my_module.my_loss")
    found = locate("task.loss", name)
    if callable(found) and not _may_be_a_loss(found):
        problem = "is neither a function of torch.nn.functional, nor an nn.Module, nor of your own"
        raise ConfigError("task.loss", name, problem, "write a function (outputs, targets) -> mean over the batch that calls it")
    if isinstance(found, type):
        lacking = needed(parameters_of(found))
        if lacking:
            remedy = f"type task.loss._target_={name} task.loss.{lacking[0]}=..."
            raise ConfigError("task.loss", name, f"needs the argument {lacking[0]}", remedy)
        found = found()
    if not callable(found):
        raise ConfigError("task.loss", name, "is not a function (outputs, targets) -> mean over the batch")
    return found


def _may_be_a_loss(found: Any) -> bool:
    """Whether a callable may be called with outputs and targets, or called to make a loss."""
    if isinstance(found, type):
        return issubclass(found, nn.Module) or is_users(found)
    return is_users(found) or getattr(nn.functional, getattr(found, "__name__", ""), None) is found

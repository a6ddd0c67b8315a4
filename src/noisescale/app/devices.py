"""Which device a run trains on, and whether this machine has as many of them as the run wants."""

from __future__ import annotations

import os

from omegaconf import DictConfig

from noisescale.app.checks import check_precision
from noisescale.app.config import in_sweep, options
from noisescale.app.launchers.world import outer_world
from noisescale.app.libraries import import_libraries
from noisescale.errors import ConfigError, check_count

__all__ = ["accelerator_of", "check_counts", "check_devices"]

CPU, GPU, AUTO = "cpu", "gpu", "auto"


def check_devices(cfg: DictConfig) -> int:
    """The number of devices of the run on this machine, checked as far as possible without torch: GPUs are counted by `accelerator_of`.

    Raises:
        ConfigError: `trainer.devices` or `trainer.num_nodes` is not a count, more than this machine has, or not what torchrun has started.
    """
    check_counts(cfg)
    _check_world(cfg)
    if cfg.trainer.accelerator not in (AUTO, GPU, "cuda"):
        _check_processes(cfg)
    return int(cfg.trainer.devices)


def check_counts(cfg: DictConfig) -> None:
    """Raise `ConfigError` unless `trainer.devices` and `trainer.num_nodes` are counts."""
    check_count("trainer.devices", cfg.trainer.devices, at_most=100_000, unit="devices")
    check_count("trainer.num_nodes", cfg.trainer.get("num_nodes", 1), at_most=100_000, unit="machines")


def _check_world(cfg: DictConfig) -> None:
    """Compare the devices with the processes that there are: on several machines, another program has to start them."""
    devices, nodes, world = int(cfg.trainer.devices), int(cfg.trainer.get("num_nodes", 1)), outer_world()
    if world is not None and in_sweep():
        remedy = f"start each run of the sweep with a {world.launcher} of its own"
        raise ConfigError(world.launcher, world.size, "starts the processes of one run, not those of a sweep", remedy)
    if world is not None and devices * nodes != world.size:
        problem = f"{world.launcher} has started {world.size} processes, and the config has {devices} x {nodes} (trainer.num_nodes)"
        remedy = f"choose trainer=ddp or ddp_cpu, and set the two so that their product is {world.size}"
        raise ConfigError("trainer.devices", devices, problem, remedy)
    if world is None and nodes > 1:
        command = f"torchrun --nnodes {nodes} --nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint HOST:29400 train.py ..."
        problem = "a run starts processes on its own machine only"
        raise ConfigError("trainer.num_nodes", nodes, problem, f"on each machine: {command}; or let srun start them")


def accelerator_of(cfg: DictConfig) -> str:
    """Lightning's name of the accelerator: `trainer.accelerator`, where `auto` is the GPU if there is one and otherwise the CPU.

    It imports torch, but only where there may be a GPU to use.

    Raises:
        ConfigError: the machine has fewer devices than `trainer.devices`, or the precision needs a GPU.
    """
    chosen = str(cfg.trainer.accelerator)
    if chosen not in (AUTO, GPU, "cuda"):
        return chosen
    import_libraries()
    import torch

    available, wanted = torch.cuda.device_count(), int(cfg.trainer.devices)
    if available == 0 and chosen == AUTO:
        _check_processes(cfg)
        check_precision(cfg, CPU)
        return CPU
    if available == 0:
        option = options().get("trainer", AUTO)
        typed = ("trainer.accelerator", chosen) if option in (AUTO, CPU, "ddp_cpu") else ("trainer", option)
        raise ConfigError(*typed, "this machine has no GPU that torch can use", "use trainer=cpu or ddp_cpu")
    if wanted > available:
        raise ConfigError("trainer.devices", wanted, f"this machine has {available} GPUs", "use trainer=cpu or ddp_cpu")
    return GPU


def _check_processes(cfg: DictConfig) -> None:
    available, wanted = max(2, os.cpu_count() or 1), int(cfg.trainer.devices)
    if wanted > available:
        raise ConfigError("trainer.devices", wanted, f"this machine has {available} CPU processes", "one process uses all cores")

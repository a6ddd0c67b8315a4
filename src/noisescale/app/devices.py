"""Which device a run trains on, and whether this machine has as many of them as the run wants."""

from __future__ import annotations

import os

from omegaconf import DictConfig

from noisescale.app.checks import check_precision
from noisescale.app.config import options
from noisescale.app.libraries import import_libraries
from noisescale.errors import ConfigError, check_count

__all__ = ["accelerator_of", "check_devices"]

CPU, GPU, AUTO = "cpu", "gpu", "auto"


def check_devices(cfg: DictConfig) -> int:
    """W, the number of devices of the run, checked as far as possible without torch: GPUs are counted by `accelerator_of`.

    Raises:
        ConfigError: `trainer.devices` is not a count, or more than the CPU processes of this machine.
    """
    check_count("trainer.devices", cfg.trainer.devices, unit="devices")
    if cfg.trainer.accelerator not in (AUTO, GPU, "cuda"):
        _check_processes(cfg)
    return int(cfg.trainer.devices)


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

"""How Lightning connects the processes of a run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig
from pytorch_lightning.strategies import StrategyRegistry

from noisescale.app.launchers.world import outer_world

__all__ = ["connection"]


def connection(cfg: DictConfig) -> dict[str, Any]:
    """Arguments of the Trainer: the environment that says which process this is, and the strategy with the time limit `rank_timeout`.

    Lightning would guess the environment from variables, and take an allocation of SLURM with a single process for several processes.
    """
    arguments: dict[str, Any] = {}
    if cfg.trainer.get("plugins") is None:
        arguments["plugins"] = [TorchElasticEnvironment() if outer_world() is not None else LightningEnvironment()]
    name = cfg.trainer.get("strategy")
    if isinstance(name, str) and "timeout" in _parameters(name):
        known = StrategyRegistry[name]
        arguments["strategy"] = known["strategy"](**known["init_params"], timeout=timedelta(seconds=cfg.rank_timeout))
    return arguments


def _parameters(name: str) -> tuple[str, ...]:
    """The names of the arguments of a registered strategy; empty for any other name, which Lightning refuses."""
    if name not in StrategyRegistry:
        return ()
    init = StrategyRegistry[name]["strategy"].__init__
    return tuple(init.__code__.co_varnames[: init.__code__.co_argcount])

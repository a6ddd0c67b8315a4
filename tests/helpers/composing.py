"""The options of conf/, and the configs that they compose to, without a command."""

from __future__ import annotations

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from tests.helpers.repository import CONF

__all__ = ["composed", "options"]


def options(group: str) -> list[str]:
    """The options of a group, including those in folders: `smith2017/decay`."""
    files = (file.relative_to(CONF / group) for file in (CONF / group).rglob("[!_]*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files)


def composed(*overrides: str) -> DictConfig:
    """The config as a program gets it; no value may be missing, and every interpolation must resolve."""
    cfg = compose("config", ["output_dir=somewhere", *overrides])
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return cfg

"""What the template needs of a LightningDataModule, with fallbacks for one that knows nothing of the template."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.utilities.seed import isolate_rng

from noisescale.app.config import errors_under
from noisescale.app.own import build_own, is_ours, name_of, parameters_of, stand_in_size
from noisescale.errors import ConfigError
from noisescale.plans.dataset_size import refuse_stand_in_size

__all__ = ["build_data", "explain", "free_on_resume", "has_loader", "has_step", "set_up", "sizes", "train_size"]

_FREE_ON_RESUME = frozenset({"size", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor"})
"""Arguments of a DataModule, by the usual names, that decide how examples are fetched, not which examples."""


def build_data(cfg: DictConfig, for_plan: bool = False) -> pl.LightningDataModule:
    """The DataModule of the config.

    Raises:
        ConfigError: it cannot be built, or has no train_dataloader; a training was given `data.size`.
    """
    if not for_plan:
        size = stand_in_size(cfg)
        with errors_under("data"):
            refuse_stand_in_size(size)
    data = build_own(cfg, "data", pl.LightningDataModule, left_out=("size",), seed=cfg.seed)
    if not has_loader(data, "train"):
        key, _, value = name_of(cfg, "data").partition("=")
        raise ConfigError(key, value, "has no train_dataloader", "define it; its data set, collate_fn and workers are used")
    if not is_ours(cfg, "data"):
        if not parameters_of(data.setup):
            key, _, value = name_of(cfg, "data").partition("=")
            raise ConfigError(key, value, "its setup must take the stage", "write def setup(self, stage=None)")
        data.setup = _repeatable(data.setup, cfg.seed)
    return cast(pl.LightningDataModule, data)


def _repeatable(setup: Callable[..., None], seed: int) -> Callable[..., None]:
    """`setup` with the same random numbers at each call, and without a trace in the others.

    It is called for the plan, for training, for the test, and on every device. A random split that differed from one call to the next would
    put training examples into the test set.
    """

    @functools.wraps(setup)
    def repeated(stage: str | None = None) -> None:
        with isolate_rng():
            pl.seed_everything(seed, verbose=False)
            setup(stage)

    return repeated


def train_size(cfg: DictConfig, data: Any, prepare: bool = True) -> int:
    """N, the number of examples of one pass. A DataModule without `train_size` is prepared and set up, and its train_dataloader counted.

    Args:
        cfg: the whole config.
        data: the DataModule.
        prepare: whether this process is the one that calls `prepare_data`.

    Raises:
        ConfigError: the data are missing or unusable, or the examples cannot be counted.
    """
    if callable(getattr(data, "train_size", None)):
        with errors_under("data"):
            return int(data.train_size())
    if prepare:
        data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        key, _, value = name_of(cfg, "data").partition("=")
        problem = f"its train_dataloader gives a {type(loader).__name__} whose examples cannot be counted"
        raise ConfigError(key, value, problem, "return one DataLoader over a data set that has a length") from None


def set_up(data: Any) -> None:
    """Set the data up before there is a trainer, unless `train_size` has done that already."""
    if callable(getattr(data, "train_size", None)):
        with errors_under("data"):
            data.setup()


def sizes(data: Any) -> dict[str, Any]:
    """What a network may want to know of the data that are set up: the shape of one example, and the number of classes or target values."""
    found = {name: getattr(data, name, None) for name in ("input_shape", "num_outputs")}
    return {name: value for name, value in found.items() if value is not None}


def free_on_resume(data: Any) -> frozenset[str]:
    """Keys of `data` that a resumed run may change."""
    return frozenset(getattr(data, "free_on_resume", _FREE_ON_RESUME))


def explain(data: Any, error: BaseException) -> ConfigError | None:
    """The error of the data that is behind an error of the training; None if there is none."""
    found: ConfigError | None = data.explain(error) if hasattr(data, "explain") else None
    return found


def has_loader(data: Any, stage: str) -> bool:
    """Whether a DataModule has a loader for `train`, `val` or `test`; for `val` it must be set up, and the loader must not be nothing."""
    there = _overrides(data, f"{stage}_dataloader", pl.LightningDataModule)
    if stage != "val" or not there:
        return there
    if hasattr(data, "val_fraction"):
        return bool(data.val_fraction != 0)
    loader = data.val_dataloader()
    return loader is not None and loader != []


def has_step(module: pl.LightningModule, step: str) -> bool:
    """Whether a module has a `training_step`, `validation_step`, `test_step` or `configure_optimizers` of its own."""
    return _overrides(module, step, pl.LightningModule)


def _overrides(owner: Any, method: str, base: type[Any]) -> bool:
    found = getattr(owner, method, None)
    return found is not None and getattr(found, "__func__", found) is not getattr(base, method)

"""What a composed config chooses, checked before torch is imported: the schedule, the batch strategy, N."""

from __future__ import annotations

import math
import sys
import zipfile
from pathlib import Path

from omegaconf import DictConfig

from noisescale.batching import BatchStrategy
from noisescale.duality import Matched, following
from noisescale.errors import ConfigError, check_count, check_number
from noisescale.frontdoor import build, errors_under, options, output_dir
from noisescale.processes import is_child
from noisescale.schedules import Schedule
from noisescale.sizes import TRAINING_EXAMPLES, split_sizes

__all__ = ["ghost_batch_size", "num_examples", "schedule_and_strategy"]


def schedule_and_strategy(cfg: DictConfig) -> tuple[Schedule, BatchStrategy]:
    """The schedule with its warm-up, and the batch strategy, which follows the optimizer.

    Raises:
        ConfigError: input that no run can carry out, whatever its data.
    """
    check_count("epochs", cfg.epochs, unit="epochs")
    if cfg.trainer.max_epochs != cfg.epochs:
        raise ConfigError(
            "trainer.max_epochs", cfg.trainer.max_epochs, f"differs from epochs={cfg.epochs}, which schedules go by", "set epochs"
        )
    check_count("seed", cfg.seed, at_least=0, at_most=2**32 - 1)
    if cfg.threads is not None:
        check_count("threads", cfg.threads, unit="threads", remedy="null for torch's default")
    if cfg.max_micro_batch_size is not None:
        check_count("max_micro_batch_size", cfg.max_micro_batch_size, unit="examples", remedy="null for no limit")
        ghost = ghost_batch_size(cfg)
        if cfg.max_micro_batch_size % ghost:
            remedy = "else the limit would change what batch norm sees"
            raise ConfigError(
                "max_micro_batch_size", cfg.max_micro_batch_size, f"must be a multiple of model.ghost_batch_size={ghost}", remedy
            )
    if cfg.ckpt_path is not None:
        _check_checkpoint(str(cfg.ckpt_path))
    _check_settings(cfg)
    lr = cfg.optimizer.get("lr")
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not 0 < lr < math.inf:
        raise ConfigError("optimizer.lr", lr, "must be a finite number in (0, inf)")
    schedule, warmup, strategy = build(cfg, "scheduler"), build(cfg, "warmup"), build(cfg, "batch")
    with errors_under("warmup"):
        schedule = warmup.before(schedule, cfg.epochs)
    if warmup.epochs > cfg.epochs:
        print(f"note: warmup.epochs={warmup.epochs} is longer than the training, epochs={cfg.epochs}: it never ends", file=sys.stderr)
    if isinstance(strategy, Matched) and strategy.rule is None:
        strategy = following(strategy, str(cfg.optimizer.get("_target_")))
        assert isinstance(strategy, Matched)
        if not is_child():
            print(f"batch.rule={strategy.rule} follows optimizer={options()['optimizer']}", file=sys.stderr)
    return schedule, strategy


def num_examples(cfg: DictConfig) -> int:
    """N, the examples of one pass: `data.size` where it is given, else the data's own; of known sets without importing torch.

    Raises:
        ConfigError: as the data themselves.
    """
    data = cfg.data
    if data.size is not None:
        check_count("data.size", data.size, unit="examples")
        return int(data.size)
    held = TRAINING_EXAMPLES.get(data.get("name", options().get("data")))
    with errors_under("data"):
        if held is not None:
            return split_sizes(held, subset_size=data.subset_size, val_fraction=data.val_fraction)[0]
        size: int = build(cfg, "data").train_size()
        return size


def ghost_batch_size(cfg: DictConfig) -> int:
    """What micro-batches must be multiples of; 1 without ghost batch norm. The model itself says what is wrong with a bad value."""
    ghost = cfg.model.get("ghost_batch_size")
    return ghost if isinstance(ghost, int) and not isinstance(ghost, bool) and ghost > 0 else 1


def _check_checkpoint(path: str) -> None:
    remedy = "give a .ckpt file, or null to start anew"
    if not Path(path).is_file():
        raise ConfigError("ckpt_path", path, "no such file" if Path(path).is_absolute() else f"no such file in {Path.cwd()}", remedy)
    if not zipfile.is_zipfile(path):
        raise ConfigError("ckpt_path", path, "is not a checkpoint, or a damaged one", remedy)


def _check_settings(cfg: DictConfig) -> None:
    """What Lightning lets pass, or of which it says only that something cannot be divided."""
    settings = cfg.trainer
    if settings.get("max_steps", -1) != -1:
        check_count("trainer.max_steps", settings.max_steps, unit="updates", remedy="-1 for no limit")
    if settings.get("limit_train_batches", 1.0) != 1.0 or settings.limit_train_batches is True:
        remedy = "1.0 for the whole epoch"
        check_count("trainer.limit_train_batches", settings.limit_train_batches, unit="updates of each epoch", remedy=remedy)
    if settings.get("check_val_every_n_epoch") is not None:
        check_count("trainer.check_val_every_n_epoch", settings.check_val_every_n_epoch, unit="epochs")
    if settings.get("gradient_clip_val") is not None:
        check_number("trainer.gradient_clip_val", settings.gradient_clip_val, above=0, remedy="null for no clipping")
    if not isinstance(cfg.full_error, bool):
        raise ConfigError("full_error", cfg.full_error, "must be true or false")
    if Path(str(cfg.output_dir)) != output_dir():
        raise ConfigError("output_dir", cfg.output_dir, "is what Hydra makes of hydra.run.dir", "set hydra.run.dir, or hydra.sweep.dir")

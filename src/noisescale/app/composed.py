"""What a composed config chooses, checked before torch is imported: the schedule, the batch strategy, N."""

from __future__ import annotations

import math
import sys
import zipfile
from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import build, errors_under, options, output_dir
from noisescale.errors import ConfigError, check_count, check_number
from noisescale.plans.dataset_size import TRAINING_EXAMPLES, split_sizes
from noisescale.plans.duality import CyclicBatch, Matched, resolve_rule
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.schedules import Schedule

__all__ = ["followed_rule", "ghost_batch_size", "known_examples", "num_examples", "optimizer_of", "plan_of", "schedule_and_strategy"]

COMPILE_MODES = ("reduce-overhead", "max-autotune")
"""Words of `model.compile` beside true and false: modes of torch.compile."""


def schedule_and_strategy(cfg: DictConfig) -> tuple[Schedule, BatchStrategy]:
    """The schedule with its warm-up, and the batch strategy, which follows the optimizer.

    Raises:
        ConfigError: input that no run can carry out, whatever its data.
    """
    for group, option in options().items():
        if option.rpartition("/")[2].startswith("_"):
            raise ConfigError(group, option, "is what options share, not one of them")
    check_count("epochs", cfg.epochs, unit="epochs")
    if cfg.trainer.max_epochs != cfg.epochs:
        raise ConfigError(
            "trainer.max_epochs", cfg.trainer.max_epochs, f"differs from epochs={cfg.epochs}, which schedules go by", "set epochs"
        )
    check_count("seed", cfg.seed, at_least=0, at_most=2**32 - 1)
    check_number("label_smoothing", cfg.label_smoothing, at_least=0, below=1)
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
    if cfg.optimizer.get("momentum") is not None:
        check_number("optimizer.momentum", cfg.optimizer.momentum, at_least=0, below=1)
    if cfg.optimizer.get("weight_decay") is not None:
        check_number("optimizer.weight_decay", cfg.optimizer.weight_decay, at_least=0)
    lr = cfg.optimizer.get("lr")
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not 0 < lr < math.inf:
        raise ConfigError("optimizer.lr", lr, "must be a finite number in (0, inf)")
    schedule, warmup, strategy = build(cfg, "scheduler"), build(cfg, "warmup"), build(cfg, "batch")
    with errors_under("warmup"):
        schedule = warmup.before(schedule, cfg.epochs)
    if warmup.epochs > 0 and options().get("warmup") == "none":
        raise ConfigError("warmup.epochs", warmup.epochs, "contradicts warmup=none", "choose warmup=linear, or set warmup.epochs=0")
    if warmup.epochs > 0 and warmup.mode == "shift" and isinstance(strategy, CyclicBatch):
        raise ConfigError("warmup.mode", "shift", "delays the schedule, but not the wave of batch=cyclic", "set warmup.mode=overlap")
    if warmup.epochs > cfg.epochs:
        print(f"note: warmup.epochs={warmup.epochs} is longer than the training, epochs={cfg.epochs}: it never ends", file=sys.stderr)
    return schedule, resolve_rule(strategy, str(cfg.optimizer.get("_target_")))


def followed_rule(cfg: DictConfig, strategy: BatchStrategy) -> list[str]:
    """A line that says the rule where it was left to the optimizer; none elsewhere."""
    if not isinstance(strategy, Matched) or cfg.batch.get("rule") is not None:
        return []
    return [f"batch.rule={strategy.rule} follows optimizer={options()['optimizer']}"]


def num_examples(cfg: DictConfig) -> int:
    """N, the examples of one pass: `data.size` where it is given, else the data's own; of known sets without importing torch.

    Raises:
        ConfigError: as the data themselves.
    """
    data = cfg.data
    if data.size is not None:
        check_count("data.size", data.size, unit="examples")
        if data.subset_size is not None:
            raise ConfigError("data.subset_size", data.subset_size, "means nothing beside data.size, which is N itself", "set one of them")
        return int(data.size)
    known = known_examples(cfg)
    if known is not None:
        return known
    source = build(cfg, "data")
    with errors_under("data"):
        size: int = source.train_size()
    return size


def known_examples(cfg: DictConfig) -> int | None:
    """N of a set whose size is known without looking at it; None for others.

    Raises:
        ConfigError: `data.subset_size` or `data.val_fraction` does not fit it.
    """
    held = TRAINING_EXAMPLES.get(cfg.data.get("name", options().get("data")))
    if held is None:
        return None
    with errors_under("data"):
        return split_sizes(held, subset_size=cfg.data.subset_size, val_fraction=cfg.data.val_fraction)[0]


def optimizer_of(cfg: DictConfig) -> tuple[str, float]:
    """The optimizer's class name, and its weight decay."""
    return str(cfg.optimizer.get("_target_")).rpartition(".")[2], cfg.optimizer.get("weight_decay") or 0.0


def plan_of(cfg: DictConfig, schedule: Schedule, strategy: BatchStrategy, num_examples: int) -> Plan:
    """The plan of the training that a config describes.

    Raises:
        ConfigError: a batch that does not fit N.
    """
    steps, per_epoch = cfg.trainer.get("max_steps", -1), cfg.trainer.get("limit_train_batches", 1.0)
    with errors_under("batch"):
        return Plan(
            schedule,
            strategy,
            num_examples,
            cfg.epochs,
            cfg.trainer.devices,
            cfg.max_micro_batch_size,
            ghost_batch_size(cfg),
            max_updates=None if steps == -1 else steps,
            max_updates_per_epoch=per_epoch if isinstance(per_epoch, int) else None,  # 1.0 is all of them, 1 is one
        )


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
    _check_compute(cfg)
    if not isinstance(cfg.full_error, bool):
        raise ConfigError("full_error", cfg.full_error, "must be true or false")
    if Path(str(cfg.output_dir)) != output_dir():
        raise ConfigError("output_dir", cfg.output_dir, "is what Hydra makes of hydra.run.dir", "set hydra.run.dir, or hydra.sweep.dir")


def _check_compute(cfg: DictConfig) -> None:
    """How the step is computed: what torch would refuse in the middle of things, or Lightning replace."""
    if not isinstance(cfg.model.get("channels_last", False), bool):
        raise ConfigError("model.channels_last", cfg.model.channels_last, "must be true or false")
    if not isinstance(compiled := cfg.model.get("compile", False), bool) and compiled not in COMPILE_MODES:
        raise ConfigError("model.compile", compiled, f"must be one of false, true, {', '.join(COMPILE_MODES)}")
    for key in ("fused", "foreach"):
        if not isinstance(value := cfg.optimizer.get(key), bool | None):
            raise ConfigError(f"optimizer.{key}", value, "must be true, false or null", "null is torch's own choice")
    if cfg.optimizer.get("fused") and cfg.optimizer.get("foreach"):
        raise ConfigError("optimizer.fused", True, "excludes optimizer.foreach=true", "set one of them to null")
    if str(cfg.trainer.get("precision")) in ("16", "16-mixed"):
        if cfg.trainer.accelerator == "cpu":
            raise ConfigError("trainer.precision", cfg.trainer.precision, "needs a GPU", "on the CPU use bf16-mixed")
        if cfg.optimizer.get("fused") and cfg.trainer.get("gradient_clip_val") is not None:
            problem = "would undo the loss scale of trainer.precision=16-mixed after the gradient was clipped"
            raise ConfigError("optimizer.fused", True, problem, "set it to null, or use bf16-mixed")

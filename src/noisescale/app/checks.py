"""Check a composed config as far as possible before torch is imported.

A check that concerns one class belongs to the room of that class; here all of them are called, together with checks of the config itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from noisescale.app.config import as_plain, errors_under, options, output_dir
from noisescale.app.measurement_checks import GRADIENT_NOISE, check_measurements
from noisescale.app.messages import SYNONYMS
from noisescale.app.own import is_ours
from noisescale.app.targets import BASES, check_nested, checked
from noisescale.checkpoint_files import damage_of, substitutes_of
from noisescale.errors import ConfigError, check_count, check_number
from noisescale.plans.checks import (
    check_ghost_multiple,
    check_label_smoothing,
    check_micro_batch_limit,
    check_micro_batch_margin,
    check_optimizer_options,
    check_processes,
    check_saving_intervals,
    check_smallest_micro_batch,
)
from noisescale.plans.trainer_limits import check_max_time, check_trainer_limits
from noisescale.plans.validations import check_val_check_interval

__all__ = ["check_config", "check_precision", "check_targets", "ghost_batch_size", "min_micro_batch_size"]

TEN_DAYS = 10 * 24 * 3600
"""The longest `rank_timeout`, in seconds."""


COMPILE_MODES = ("reduce-overhead", "max-autotune")
"""Values of `model.compile` other than true and false: modes of torch.compile."""


def check_config(cfg: DictConfig) -> None:
    """Check everything that does not depend on the data.

    Raises:
        ConfigError: the first mistake.
    """
    _check_options()
    _check_groups(cfg)
    _check_interpolations(cfg)
    _check_added_keys(cfg)
    check_measurements(cfg)  # before `split_every`, which may follow a key of theirs
    _check_run(cfg)
    _check_trainer(cfg)
    _check_model(cfg)
    _check_early_stopping(cfg)
    _check_saving(cfg)
    if is_ours(cfg, "data"):
        _check_bool("data.balanced", cfg.data.get("balanced", False))
    with errors_under("optimizer"):
        check_optimizer_options({"lr": None} | as_plain(cfg.optimizer))
    check_precision(cfg, cfg.trainer.accelerator)


def check_targets(cfg: DictConfig) -> None:
    """Check what every `_target_` of the config names, before anything is made of it; the loggers are left to `check_loggers`.

    It imports torch, and the modules of the user's own classes.

    Raises:
        ConfigError: one names nothing, or something else than its group is for.
    """
    for group, base in BASES.items():
        held = as_plain(cfg[group])
        for key, node in {f"callbacks.{name}": node for name, node in held.items()}.items() if group == "callbacks" else [(group, held)]:
            target = node.get("_target_") if isinstance(node, dict) and group != "logger" else None
            if target is not None and not str(target).startswith("pytorch_lightning.callbacks."):  # an old Lightning may not have it
                checked(f"{key}._target_", target, base)
            with errors_under(key):
                check_nested(node)


def ghost_batch_size(cfg: DictConfig) -> int:
    """The number of examples that micro-batches must be multiples of; 1 without ghost batch norm.

    It is also 1 for an invalid value, which the model refuses itself.
    """
    ghost = cfg.model.get("ghost_batch_size")
    return ghost if isinstance(ghost, int) and not isinstance(ghost, bool) and ghost > 0 else 1


def min_micro_batch_size(cfg: DictConfig) -> int:
    """The fewest examples of a forward pass: 2 for a model of conf/model with batch norm, otherwise 1.

    A model that can have batch norm has the key `ghost_batch_size`, and the key `norm` if it can do without. Nothing is known of a network
    of the user's own before it is built.
    """
    return 2 if "ghost_batch_size" in cfg.model and cfg.model.get("norm", "batch") == "batch" else 1


def _check_options() -> None:
    """Refuse as an option a file whose name starts with `_`: it holds keys that several options share."""
    for group, option in options().items():
        if option.rpartition("/")[2].startswith("_"):
            raise ConfigError(group, option, "holds keys that several options share, and is not an option itself")


def _check_groups(cfg: DictConfig) -> None:
    """Refuse a config without one of its groups, as with `~scheduler`, or with a value in its place."""
    for group in BASES:
        if not isinstance(cfg.get(group), DictConfig):
            raise ConfigError(group, cfg.get(group, ""), "must be an option of this group, which cannot be left out")


def _check_interpolations(cfg: DictConfig) -> None:
    """Refuse a `${...}` that stands for nothing, by the key that holds it, and not by one that refers to that key."""
    failed = []
    held = OmegaConf.to_container(cfg)
    assert isinstance(held, dict)
    for key, written in _written_values("", {name: value for name, value in held.items() if name != "hydra"}):
        try:
            if "${" in written:
                OmegaConf.select(cfg, key, throw_on_resolution_failure=True)
        except InterpolationToMissingValueError:
            continue  # the key that is missing says so itself
        except OmegaConfBaseException as error:
            problem = str(error).splitlines()[0]
            named = problem.split("'")[1] if problem.count("'") > 1 else key
            failed.append((named not in written, key, written, problem))
    if failed:
        raise ConfigError(*min(failed)[1:])


def _written_values(key: str, node: Any) -> Iterator[tuple[str, str]]:
    """(key, value as written) of all text in a config."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _written_values(f"{key}.{name}" if key else str(name), value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _written_values(f"{key}[{i}]", value)


def _check_added_keys(cfg: DictConfig) -> None:
    """Refuse a key that was added (`+lr=0.1`) under the name that it has elsewhere: it would be ignored."""
    for key in cfg:
        if key in SYNONYMS:
            raise ConfigError(str(key), cfg[key], "is not a key, and would be ignored", f"did you mean {SYNONYMS[str(key)]}?")


def _check_run(cfg: DictConfig) -> None:
    """Check the keys outside the groups."""
    check_count("epochs", cfg.epochs, unit="epochs")
    check_count("seed", cfg.seed, at_least=0, at_most=2**32 - 1)
    if "label_smoothing" in cfg.task:
        with errors_under("task"):
            check_label_smoothing(cfg.task.label_smoothing)
    if cfg.threads is not None:
        check_processes("threads", cfg.threads, at_least=1, unit="threads", remedy="null for torch's default")
    check_micro_batch_margin("micro_batch_margin", cfg.micro_batch_margin)
    if cfg.max_micro_batch_size is not None:
        check_micro_batch_limit("max_micro_batch_size", cfg.max_micro_batch_size, remedy="auto for the most that fit, null for no limit")
    if isinstance(cfg.max_micro_batch_size, int):
        check_ghost_multiple("max_micro_batch_size", cfg.max_micro_batch_size, ghost_batch_size(cfg))
        check_smallest_micro_batch("max_micro_batch_size", cfg.max_micro_batch_size, min_micro_batch_size(cfg))
    if cfg.get("split_every") is not None:
        check_count("split_every", cfg.get("split_every"), unit="updates", remedy="null for none")
    if cfg.plan_csv_rows is not None:
        check_count("plan_csv_rows", cfg.plan_csv_rows, at_least=0, unit="updates", remedy="null for any number")
    if cfg.ckpt_path is not None:
        _check_checkpoint(str(cfg.ckpt_path))
    check_number("rank_timeout", cfg.rank_timeout, above=0, at_most=TEN_DAYS, unit="seconds")
    if cfg.get("weights_from") is not None and cfg.ckpt_path is None and not Path(str(cfg.weights_from)).is_file():
        raise ConfigError("weights_from", cfg.weights_from, "no such file", "give a .ckpt file, or null for new weights")
    _check_bool("full_error", cfg.full_error)
    _check_bool("check_cuts", cfg.check_cuts)
    if Path(str(cfg.output_dir)) != output_dir():
        raise ConfigError("output_dir", cfg.output_dir, "is what Hydra makes of hydra.run.dir", "set hydra.run.dir, or hydra.sweep.dir")


def _check_checkpoint(path: str) -> None:
    damage = damage_of(Path(path))
    if damage and not substitutes_of(Path(path)):
        raise ConfigError("ckpt_path", path, damage, "give a .ckpt file, or null to start anew")


def _check_trainer(cfg: DictConfig) -> None:
    """Check what Lightning would accept, or refuse without naming the key."""
    trainer = cfg.trainer
    if trainer.max_epochs != cfg.epochs:
        problem = f"differs from epochs={cfg.epochs}, which schedules go by"
        raise ConfigError("trainer.max_epochs", trainer.max_epochs, problem, "set epochs")
    with errors_under("trainer"):
        check_trainer_limits(trainer.get("max_steps", -1), trainer.get("limit_train_batches", 1.0))
        check_max_time(trainer.get("max_time"))
        if trainer.get("check_val_every_n_epoch") is not None:
            check_count("check_val_every_n_epoch", trainer.check_val_every_n_epoch, unit="epochs")
        check_val_check_interval(trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch"))
        if trainer.get("gradient_clip_val") is not None:
            check_number("gradient_clip_val", trainer.gradient_clip_val, above=0, remedy="null for no clipping")


def _check_model(cfg: DictConfig) -> None:
    _check_bool("model.channels_last", cfg.model.get("channels_last", False))
    compiled = cfg.model.get("compile", False)
    if not isinstance(compiled, bool) and compiled not in COMPILE_MODES:
        raise ConfigError("model.compile", compiled, f"must be one of false, true, {', '.join(COMPILE_MODES)}")


def _check_early_stopping(cfg: DictConfig) -> None:
    """Check what Lightning compares without a look: with a patience of -3 it would stop at once, with a min_delta of nan never improve."""
    found = {"early_stopping": cfg.early_stopping} | {f"callbacks.{name}": node for name, node in cfg.callbacks.items()}
    for key, node in found.items():
        if not isinstance(node, DictConfig) or str(node.get("_target_")) != "pytorch_lightning.callbacks.EarlyStopping":
            continue
        with errors_under(key):
            check_count("patience", node.get("patience", 0), at_least=0, unit="validations")
            check_number("min_delta", node.get("min_delta", 0.0), at_least=0)


def _check_saving(cfg: DictConfig) -> None:
    """Check how often checkpoints are saved between the ends of epochs."""
    for name, node in cfg.callbacks.items():
        if not isinstance(node, DictConfig) or node.get("_target_") == GRADIENT_NOISE:
            continue
        if "every_n_updates" in node or "every_n_minutes" in node:
            with errors_under(f"callbacks.{name}"):
                check_saving_intervals(node.get("every_n_updates"), node.get("every_n_minutes"), node.get("monitor"))


def check_precision(cfg: DictConfig, accelerator: str) -> None:
    """Check float16, which needs a GPU, and which scales the loss: torch's fused optimizers undo that scale themselves.

    Args:
        cfg: the composed config.
        accelerator: what the run trains on; `auto` as long as that is not known.
    """
    if str(cfg.trainer.get("precision")) not in ("16", "16-mixed"):
        return
    if accelerator == "cpu":
        raise ConfigError("trainer.precision", cfg.trainer.precision, "needs a GPU", "on the CPU use bf16-mixed")
    if cfg.optimizer.get("fused") and cfg.trainer.get("gradient_clip_val") is not None:
        problem = "would undo the loss scale of trainer.precision=16-mixed after the gradient was clipped"
        raise ConfigError("optimizer.fused", True, problem, "set it to null, or use bf16-mixed")


def _check_bool(key: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(key, value, "must be true or false")

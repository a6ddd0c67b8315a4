"""What a run that is resumed may change: what is harmless, what is said in a line, and what would make it another run."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from noisescale.app.choices import key_of
from noisescale.app.config import build, options, overrides
from noisescale.app.recorded import Record, leaves
from noisescale.app.targets import locate
from noisescale.errors import ConfigError
from noisescale.plans.plan import Plan
from noisescale.plans.trainer_limits import stretches_of_every_size
from noisescale.schedules import Schedule

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from noisescale.callbacks import BatchSizeScheduler
    from noisescale.execution.same_run import PlanOfRun

__all__ = [
    "NEW_TRAINING",
    "cuts_differ",
    "moved_by_epochs",
    "plan_choices",
    "plan_of_run",
    "refuse_changes",
    "seen_by_micro_batches",
]

NEW_TRAINING = "resume with the same, or start a new training from its weights with weights_from=..."

HARMLESS = (
    *("threads", "full_error", "check_cuts", "rank_timeout", "plan_csv_rows", "branches.*", "range_test.*", "recommend.*"),
    *("ckpt_path", "resume", "output_dir", "epochs", "max_micro_batch_size", "micro_batch_margin"),
    *("logger", "logger.*", "early_stopping", "early_stopping.*", "callbacks.*.patience", "callbacks.last.*"),
    *("callbacks.progress_bar", "callbacks.progress_bar.*", "callbacks.sharpness", "callbacks.sharpness.*"),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.max_steps", "trainer.max_time"),
    *("trainer.profiler", "trainer.enable_model_summary", "trainer.log_every_n_steps"),
    *("model.channels_last", "model.compile", "optimizer.fused", "optimizer.foreach"),
)
"""Keys that a resumed run may change, as patterns; of some of them a line says what they change: see `execution.SameRun`."""

FIXED = ("callbacks.last._target_", "callbacks.last.dirpath", "callbacks.last.filename")
"""Exceptions: the next resume looks for the checkpoint there."""

PLAN_GROUPS = ("batch", "scheduler", "warmup")


def refuse_changes(cfg: DictConfig, record: Record) -> None:
    """Compare the config of a resumed run with the one that the run has recorded.

    Raises:
        ConfigError: they differ in a key that is not harmless; it has both values.
    """
    before, now = (dict(leaves(OmegaConf.to_container(each))) for each in (record.config, cfg))
    chosen = options()
    typed = {key_of(word) for word in overrides()}
    for key in dict.fromkeys([*before, *now]):
        if key not in before and not any(key == each or key.startswith(f"{each}.") for each in typed):
            continue  # a key that is newer than the run, at its default
        had, has = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if had == has or _is_harmless(key, cfg) or _resolved(record.config, key) == _resolved(cfg, key):
            continue
        group = key.partition(".")[0]
        option = record.choices.get(group)
        if option is not None and chosen.get(group, option) != option:
            raise ConfigError(group, chosen[group], f"the run has {group}={option}", NEW_TRAINING)
        problem = f"the run has {key}={_written(had)}" if had is not _ABSENT else "the run does not have this key"
        raise ConfigError(key, _written(has), problem, NEW_TRAINING)


_ABSENT = object()


def _resolved(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key, default=_ABSENT)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _written(value: Any) -> str:
    """A value as in YAML, on one line."""
    if value is _ABSENT:
        return "null"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _is_harmless(key: str, cfg: DictConfig) -> bool:
    if key in FIXED:
        return False
    if any(fnmatchcase(key, pattern) for pattern in HARMLESS):
        return True
    group, _, name = key.partition(".")
    return group == "data" and name in _free_of_data(cfg)


def _free_of_data(cfg: DictConfig) -> frozenset[str]:
    """Keys of `data` that decide how examples are fetched, not which examples."""
    from noisescale.app.own_data import free_on_resume

    return free_on_resume(locate("data._target_", cfg.data._target_))


# -- what decides the plan ----------------------------------------------------------------------------------------------------


def plan_choices(cfg: DictConfig) -> dict[str, Any]:
    """Dotted key -> value of what decides the batches and the learning rates of a run, for its checkpoints.

    Without the keys that follow `epochs`, such as the length of a ramp over the whole training: see `moved_by_epochs`.
    """
    found: dict[str, Any] = {}
    for group in PLAN_GROUPS:
        for key, value in leaves(OmegaConf.to_container(cfg[group]), group):
            if "${epochs}" not in str(value):
                found[key] = _resolved(cfg, key)
    for key in ("limit_train_batches", "gradient_clip_val", "gradient_clip_algorithm"):
        if cfg.trainer.get(key) is not None:
            found[f"trainer.{key}"] = cfg.trainer[key]
    return found


def plan_of_run(cfg: DictConfig, batches: BatchSizeScheduler) -> PlanOfRun:
    """What `SameRun` saves and compares of the plan of a run."""
    from noisescale.execution.same_run import PlanOfRun

    def said(key: str, before: Any, module: pl.LightningModule, epoch: int) -> str:
        if key == "epochs":
            return moved_by_epochs(cfg, before, epoch)
        if key == "max_micro_batch_size" and not cuts_differ(batches.plan, before):
            return ""
        return seen_by_micro_batches(module)

    changes = {"epochs": cfg.epochs, "max_micro_batch_size": cfg.max_micro_batch_size, "trainer.devices": cfg.trainer.devices}
    chosen = {group: options().get(group, "") for group in PLAN_GROUPS}
    return PlanOfRun(plan_choices(cfg), chosen, changes, said, lambda: {"max_micro_batch_size": batches.limit.value})


def moved_by_epochs(cfg: DictConfig, before: int, epoch: int) -> str:
    """What another number of `epochs` moves in the schedule or the batches, in words; empty if nothing.

    Args:
        cfg: the composed config, with the new number.
        before: the number that the checkpoint was trained with.
        epoch: the epoch of the checkpoint, from which the run goes on.
    """
    was, now = _schedule(cfg, before), _schedule(cfg, cfg.epochs)
    follows = [key for key, value in leaves(OmegaConf.to_container(cfg.batch), "batch") if "${epochs}" in str(value)]
    words = []
    if was != now:
        words.append(f"scheduler={options().get('scheduler', '')} has this length: its factor at epoch {epoch} is {_at(now, was, epoch)}")
    words += [f"{key} follows it" for key in follows]
    return "; ".join(words)


def _schedule(cfg: DictConfig, epochs: int) -> Schedule:
    schedule: Schedule = build(cfg, "warmup").before(build(cfg, "scheduler"), epochs)
    return schedule.with_horizon(epochs)


def _at(now: Schedule, was: Schedule, epoch: int) -> str:
    return f"{now(epoch):.4g} instead of {was(epoch):.4g}"


# -- how a batch is divided ---------------------------------------------------------------------------------------------------


def cuts_differ(plan: Plan, limit: int | None) -> bool:
    """Whether another memory limit divides any update into other micro-batches."""
    plan = replace(plan, split_every=None)  # which updates are cut for a measurement does not depend on the limit
    here, there = (
        {update.effective_batch_size: each.pieces(update, 0) for update in map(each.update_in, stretches_of_every_size(each))}
        for each in (plan, replace(plan, max_micro_batch_size=limit))
    )
    return here != there


def seen_by_micro_batches(module: nn.Module) -> str:
    """What of a module depends on the examples that it gets together, in words; empty if nothing does."""
    from torch.nn.modules.dropout import _DropoutNd

    from noisescale.execution.batch_norm import ghost_batch_size, min_micro_batch_size

    norm = min_micro_batch_size(module, 1) > 1 and ghost_batch_size(module) == 1
    drops = any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in module.modules())
    found = [name for name, there in (("batch norm sees other examples together", norm), ("dropout draws other masks", drops)) if there]
    return f"{' and '.join(found)} from here on" if found else ""

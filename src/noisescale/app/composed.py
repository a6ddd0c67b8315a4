"""Read a composed config once: the schedule, the batch strategy, the numbers of the optimizer, and their plan for N examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omegaconf import DictConfig

from noisescale.app.checks import check_config, ghost_batch_size, min_micro_batch_size
from noisescale.app.config import build, errors_under, options
from noisescale.errors import ConfigError
from noisescale.plans.dataset_size import TRAINING_EXAMPLES, check_stand_in_size, split_sizes
from noisescale.plans.duality import CyclicBatch, Matched, resolve_rule
from noisescale.plans.plan import Cursor, Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.plans.trainer_limits import plan_for_trainer
from noisescale.plans.validations import check_first_epoch
from noisescale.schedules import Schedule, Warmup

__all__ = ["Composed", "known_examples", "num_examples", "read_config"]


@dataclass(frozen=True)
class Composed:
    """The part of a config that a plan needs, checked.

    Args:
        cfg: the config.
        schedule: the schedule with its warm-up and with its horizon filled in.
        strategy: the batch strategy; an open rule is set to that of the optimizer.
        optimizer: the class name of the optimizer.
        lr, momentum, weight_decay: the numbers of the optimizer; 0 if it has no such option.
        notes: one line each for users to read, about what was filled in or looks like a mistake.
    """

    cfg: DictConfig
    schedule: Schedule
    strategy: BatchStrategy
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    notes: tuple[str, ...]

    @property
    def ghost_batch_size(self) -> int:
        """The number of examples that micro-batches must be multiples of; 1 without ghost batch norm."""
        return ghost_batch_size(self.cfg)

    def plan(self, num_examples: int, at_least: int | None = None) -> Plan:
        """The plan of the training on N = num_examples.

        Args:
            num_examples: N.
            at_least: the fewest examples of a forward pass, once the network has been built; None: what its config says.

        Raises:
            ConfigError: a batch size does not fit N or batch norm, or the interval between two validations does not fit N.
        """
        trainer = self.cfg.trainer
        try:
            plan = plan_for_trainer(
                self.schedule,
                self.strategy,
                num_examples,
                optimizer=self.optimizer,
                max_epochs=self.cfg.epochs,
                max_steps=trainer.get("max_steps", -1),
                limit_train_batches=trainer.get("limit_train_batches", 1.0),
                world_size=trainer.devices,
                max_micro_batch_size=self.cfg.max_micro_batch_size,
                micro_batch_multiple=self.ghost_batch_size,
                min_micro_batch_size=at_least or min_micro_batch_size(self.cfg),
                replacement=self.cfg.data.get("balanced", False),
            )
        except ConfigError as error:
            raise _in_terms_of_the_config(error) from error
        with errors_under("trainer"):
            first = replace(plan, max_updates=None).updates_of_epoch(0, Cursor())
            check_first_epoch(trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch"), len(first))
        return plan


def _in_terms_of_the_config(error: ConfigError) -> ConfigError:
    """An error of a plan with the key that the user typed: most are keys of `batch`."""
    match error.key:
        case "max_micro_batch_size":
            return error
        case "micro_batch_multiple":
            return ConfigError("model.ghost_batch_size", error.value, error.problem, error.remedy)
    return error.under("batch")


def read_config(cfg: DictConfig) -> Composed:
    """Check a composed config, and build what a plan needs; does not import torch.

    Raises:
        ConfigError: the config is invalid, whatever the data.
    """
    check_config(cfg)
    optimizer = str(cfg.optimizer.get("_target_")).rpartition(".")[2]
    schedule, warmup = build(cfg, "scheduler"), build(cfg, "warmup")
    strategy = resolve_rule(build(cfg, "batch"), optimizer)
    _check_warmup(warmup, strategy)
    with errors_under("warmup"):
        schedule = warmup.before(schedule, cfg.epochs)
    return Composed(
        cfg,
        schedule,
        strategy,
        optimizer,
        cfg.optimizer.lr,
        cfg.optimizer.get("momentum") or 0.0,
        cfg.optimizer.get("weight_decay") or 0.0,
        (*_warmup_notes(cfg, warmup), *_rule_notes(cfg, strategy)),
    )


def num_examples(cfg: DictConfig) -> int:
    """N, the number of examples of one pass: `data.size` if it is given, otherwise that of the data set.

    Torch is imported only for data sets whose size is not known without looking at them.

    Raises:
        ConfigError: an option of `data` is invalid, or the data cannot be found.
    """
    with errors_under("data"):
        check_stand_in_size(cfg.data.size, cfg.data.subset_size)
    if cfg.data.size is not None:
        return int(cfg.data.size)
    known = known_examples(cfg)
    if known is not None:
        return known
    source = build(cfg, "data")
    with errors_under("data"):
        size: int = source.train_size()
    return size


def known_examples(cfg: DictConfig) -> int | None:
    """N of a data set whose size is known without looking at it; None for any other.

    Raises:
        ConfigError: `data.subset_size` or `data.val_fraction` does not fit the data set.
    """
    held = TRAINING_EXAMPLES.get(cfg.data.get("name", options().get("data")))
    if held is None:
        return None
    with errors_under("data"):
        return split_sizes(held, subset_size=cfg.data.subset_size, val_fraction=cfg.data.val_fraction)[0]


def _check_warmup(warmup: Warmup, strategy: BatchStrategy) -> None:
    if warmup.epochs > 0 and options().get("warmup") == "none":
        raise ConfigError("warmup.epochs", warmup.epochs, "contradicts warmup=none", "choose warmup=linear, or set warmup.epochs=0")
    if warmup.epochs > 0 and warmup.mode == "shift" and isinstance(strategy, CyclicBatch):
        raise ConfigError("warmup.mode", "shift", "delays the schedule, but not the wave of batch=cyclic", "set warmup.mode=overlap")


def _warmup_notes(cfg: DictConfig, warmup: Warmup) -> list[str]:
    if warmup.epochs <= cfg.epochs:
        return []
    return [f"warmup.epochs={warmup.epochs} is longer than the training, epochs={cfg.epochs}: the warm-up never ends"]


def _rule_notes(cfg: DictConfig, strategy: BatchStrategy) -> list[str]:
    """A line that says which rule was chosen, if that was left to the optimizer."""
    if not isinstance(strategy, Matched) or cfg.batch.get("rule") is not None:
        return []
    return [f"batch.rule={strategy.rule} follows optimizer={options()['optimizer']}"]

"""Read a composed config once: the schedule, the batch strategy, the numbers of the optimizer, and their plan for N examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omegaconf import DictConfig

from noisescale.app.checks import check_config, ghost_batch_size, min_micro_batch_size
from noisescale.app.config import build, errors_under, options, overrides
from noisescale.app.measurement_checks import GRADIENT_NOISE
from noisescale.app.own import is_ours, makes_own_optimizer, name_of, refuse_words_without_effect, stand_in_size
from noisescale.app.targets import locate
from noisescale.app.trainer_keys import check_added_trainer_keys
from noisescale.app.without_effect import notes_of_config
from noisescale.errors import ConfigError
from noisescale.plans.adaptive import GRADIENT_NOISE_SCALE
from noisescale.plans.checks import AUTO, check_decay_of_an_interval
from noisescale.plans.dataset_size import TRAINING_EXAMPLES, split_sizes
from noisescale.plans.duality import CyclicBatch, Matched, resolve_rule
from noisescale.plans.plan import Cursor, Plan
from noisescale.plans.strategies import BatchStrategy
from noisescale.plans.survey import Progress
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
        optimizer: the class name of the optimizer; SGD, as an assumption, if a module of the user's own makes its own.
        lr, momentum, weight_decay: the numbers of the optimizer; 0 if it has no such option. With a module's own optimizer lr is 1.
        own_optimizer: the choice of a module that makes its own optimizer, as the user typed it; empty otherwise.
        sets_rate: whether the plan sets the learning rate; scheduler=none leaves it to the module.
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
    own_optimizer: str = ""
    sets_rate: bool = True

    @property
    def ghost_batch_size(self) -> int:
        """The number of examples that micro-batches must be multiples of; 1 without ghost batch norm."""
        return ghost_batch_size(self.cfg)

    @property
    def _replacement(self) -> bool:
        return is_ours(self.cfg, "data") and bool(self.cfg.data.get("balanced", False))

    def plan(self, num_examples: int, at_least: int | None = None, progress: Progress | None = None) -> Plan:
        """The plan of the training on N = num_examples.

        Args:
            num_examples: N.
            at_least: the fewest examples of a forward pass, once the network has been built; None: what its config says.
            progress: is called with the share of the plan that has been checked, 0 to 1.

        Raises:
            ConfigError: a batch size, or the interval between two validations, does not fit N, or batch norm.
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
                world_size=trainer.devices * trainer.get("num_nodes", 1),
                max_micro_batch_size=None if self.cfg.max_micro_batch_size == AUTO else self.cfg.max_micro_batch_size,
                micro_batch_multiple=self.ghost_batch_size,
                replacement=self._replacement,
                min_micro_batch_size=at_least or min_micro_batch_size(self.cfg),
                split_every=self.cfg.get("split_every"),
                progress=progress,
            )
        except ConfigError as error:
            raise _in_terms_of_the_config(error, self._replacement) from error
        with errors_under("trainer"):
            first = sum(stretch.updates for stretch in replace(plan, max_updates=None).sizes_of_epoch(0, Cursor()))
            check_first_epoch(trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch"), first)
        return plan


def _name_of_optimizer(cfg: DictConfig) -> str:
    """The name that decides its noise rule; imports torch only for a class of the user's own, which may be derived from one of torch's."""
    target = str(cfg.optimizer.get("_target_"))
    if not target.startswith(("torch.optim.", "noisescale.")):
        found = locate("optimizer._target_", target)
        if isinstance(found, type):
            from noisescale.execution.compatibility import torch_name

            return torch_name(found)
    return target.rpartition(".")[2]


def _in_terms_of_the_config(error: ConfigError, balanced: bool) -> ConfigError:
    """An error of a plan with the key that the user typed: most are keys of `batch`."""
    match error.key:
        case "max_micro_batch_size":
            return error
        case "micro_batch_multiple":
            return ConfigError("model.ghost_batch_size", error.value, error.problem, error.remedy)
        case "match" if balanced:
            problem = f"draws with replacement, but batch.match={error.value} {error.problem}"
            return ConfigError("data.balanced", True, problem, error.remedy.replace("set it to ", "set batch.match="))
    return error.under("batch")


def read_config(cfg: DictConfig) -> Composed:
    """Check a composed config, and build what a plan needs; does not import torch.

    Raises:
        ConfigError: the config is invalid, whatever the data.
    """
    check_config(cfg)
    check_added_trainer_keys(cfg)
    refuse_words_without_effect(cfg)
    own_optimizer = name_of(cfg, "module") if makes_own_optimizer(cfg) else ""
    optimizer = "SGD" if own_optimizer else _name_of_optimizer(cfg)
    schedule, warmup, strategy = build(cfg, "scheduler"), build(cfg, "warmup"), build(cfg, "batch")
    if not own_optimizer:  # otherwise an open rule is that of the optimizer that the module makes
        strategy = resolve_rule(strategy, optimizer)
    sets_rate = options().get("scheduler") != "none"
    _check_warmup(warmup, strategy)
    _check_measured(cfg, strategy)
    if not sets_rate:
        _check_left_alone(warmup, strategy)
    with errors_under("warmup"):
        schedule = warmup.before(schedule, cfg.epochs)
    return Composed(
        cfg,
        schedule,
        strategy,
        optimizer,
        1.0 if own_optimizer else cfg.optimizer.lr,
        0.0 if own_optimizer else cfg.optimizer.get("momentum") or 0.0,
        0.0 if own_optimizer else cfg.optimizer.get("weight_decay") or 0.0,
        (
            *_schedule_notes(sets_rate),
            *_warmup_notes(cfg, warmup),
            *_rule_notes(cfg, strategy, own_optimizer),
            *_own_notes(cfg),
            *notes_of_config(cfg),
        ),
        own_optimizer,
        sets_rate,
    )


def num_examples(cfg: DictConfig) -> int:
    """N, the number of examples of one pass: `data.size` if it is given, otherwise that of the data set.

    Torch is imported only for data sets whose size is not known without looking at them.

    Raises:
        ConfigError: an option of `data` is invalid, or the data cannot be found.
    """
    size = stand_in_size(cfg)
    if size is None:
        size = known_examples(cfg)
    if size is None:
        from noisescale.app.own_data import build_data, train_size

        size = train_size(cfg, build_data(cfg, for_plan=True))
    return size


def known_examples(cfg: DictConfig) -> int | None:
    """N of a data set whose size is known without looking at it; None for any other, such as one of the user's own.

    Raises:
        ConfigError: `data.subset_size` or `data.val_fraction` does not fit the data set.
    """
    held = TRAINING_EXAMPLES.get(cfg.data.get("name", options().get("data")))
    if held is None or not is_ours(cfg, "data"):
        return None
    with errors_under("data"):
        return split_sizes(held, subset_size=cfg.data.subset_size, val_fraction=cfg.data.val_fraction)[0]


def _check_warmup(warmup: Warmup, strategy: BatchStrategy) -> None:
    if warmup.epochs > 0 and options().get("warmup") == "none":
        raise ConfigError("warmup.epochs", warmup.epochs, "contradicts warmup=none", "choose warmup=linear, or set warmup.epochs=0")
    if warmup.epochs > 0 and warmup.mode == "shift" and isinstance(strategy, CyclicBatch):
        raise ConfigError("warmup.mode", "shift", "delays the schedule, but not the wave of batch=cyclic", "set warmup.mode=overlap")


def _check_measured(cfg: DictConfig, strategy: BatchStrategy) -> None:
    """Raise `ConfigError` if the batch goes by the gradient noise scale, and no callback measures that."""
    targets = [str(node.get("_target_")) for node in cfg.callbacks.values() if isinstance(node, DictConfig)]
    if GRADIENT_NOISE_SCALE not in strategy.monitors:
        return
    for name, node in cfg.callbacks.items():
        if isinstance(node, DictConfig) and node.get("_target_") == GRADIENT_NOISE:
            with errors_under(f"callbacks.{name}"):
                check_decay_of_an_interval(node.get("decay", 1.0))
    if not any(target.endswith(".GradientNoiseScale") for target in targets):
        problem = f"goes by {GRADIENT_NOISE_SCALE}, which no callback measures"
        raise ConfigError("batch", options().get("batch", ""), problem, "add callbacks=[full,gns]")


def _check_left_alone(warmup: Warmup, strategy: BatchStrategy) -> None:
    """Raise `ConfigError` if something else would set the learning rate that scheduler=none leaves to the module."""
    for group, sets in (("warmup", warmup.epochs > 0), ("batch", strategy.moves_rate)):
        if sets:
            problem = f"leaves the learning rate to the module, but {group}={options()[group]} sets it"
            raise ConfigError("scheduler", "none", problem, "choose one of the two; scheduler=constant is a schedule that stays at 1")


def _schedule_notes(sets_rate: bool) -> list[str]:
    return [] if sets_rate else ["scheduler=none leaves the learning rate to the module's own scheduler; the plan takes it as constant"]


def _warmup_notes(cfg: DictConfig, warmup: Warmup) -> list[str]:
    if warmup.epochs <= cfg.epochs:
        return []
    return [f"warmup.epochs={warmup.epochs} is longer than the training, epochs={cfg.epochs}: the warm-up never ends"]


def _rule_notes(cfg: DictConfig, strategy: BatchStrategy, own_optimizer: str) -> list[str]:
    """A line that says which rule was chosen, if that was left to the optimizer."""
    if not isinstance(strategy, Matched) or cfg.batch.get("rule") is not None:
        return []
    if own_optimizer:
        return [f"batch.rule follows the optimizer that {own_optimizer} makes: sgd for SGD, ASGD, Adam and AdamW, adaptive for all others"]
    return [f"batch.rule={strategy.rule} follows optimizer={options().get('optimizer', '')}"]


def _own_notes(cfg: DictConfig) -> list[str]:
    """Lines about what is used, or has no effect, beside classes of the user's own."""
    notes, experiment = [], options().get("experiment", "None")
    if cfg.module.get("_target_") is not None and experiment not in ("None", ""):
        parts = "task, model and optimizer" if makes_own_optimizer(cfg) else "task and model"
        notes.append(f"{parts} of experiment={experiment} have no effect: {name_of(cfg, 'module')} replaces them")
    data_typed = any(word.lstrip("+").startswith(("data=", "data._target_=")) for word in overrides())
    if cfg.module.get("_target_") is not None and experiment in ("None", "") and not data_typed:
        notes.append(f"data={options().get('data', '')} is used; set data._target_ for data of your own")
    if "batch_size" in cfg.data:
        size, batch = cfg.data.batch_size, options().get("batch", "")
        notes.append(f"data.batch_size={size} does not decide the batches of the training, which batch={batch} does")
    return notes

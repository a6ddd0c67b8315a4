"""Which batch size and which learning rate to use: measures within a budget of time, and recommends what the measurements support."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.execution.quiet import without_lightnings_lines
from noisescale.plans.duality import Dual
from noisescale.plans.noise import noise_rule_of
from noisescale.plans.strategies import BatchStrategy, Fixed
from noisescale.plans.trainer_limits import plan_for_trainer
from noisescale.progress import in_words, progress_bar
from noisescale.schedules import Constant, Schedule
from noisescale.studies.facts import Facts
from noisescale.studies.measured import Measured
from noisescale.studies.probes import LIMIT, Probes, Tell
from noisescale.studies.recommendation import Recommendation, recommendation
from noisescale.studies.recommendation_options import RecommendationOptions
from noisescale.studies.same_study import same_study
from noisescale.studies.training import Training, strategy_of

__all__ = ["RecommendationOptions", "Recommended", "Tell", "recommend", "run_recommendation"]


@dataclass(frozen=True)
class Recommended:
    """A recommendation, the measurements that say so, and what it costs in updates.

    Attributes:
        found, measured: the recommendation, and what it rests on.
        updates: of the training with the schedule and the recommended batch.
        dual_updates: of its dual, whose batch grows up to `found.max_batch_size`; None if the batch cannot grow without loss, or if the
            schedule does not decay.
    """

    found: Recommendation
    measured: Measured
    updates: int
    dual_updates: int | None

    @property
    def grows(self) -> bool:
        """Whether the dual is worth it."""
        return self.dual_updates is not None and self.dual_updates < self.updates


def recommend(
    module: Any,
    data: Any,
    batch: int | BatchStrategy,
    *,
    schedule: Schedule | None = None,
    epochs: int = 1,
    seed: int = 0,
    folder: str | Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> Recommended:
    """Which batch size and learning rate to use for a training, and the measurements that say so.

    In order: the speed of several batch sizes; a learning-rate range test, and short trainings with some of its rates; branches of equal
    noise from an early and a late epoch, with the gradient noise scale beside them; and a short training with what is recommended.

    Args:
        module: a LightningModule; afterwards it has the weights that it had before.
        data: its LightningDataModule, or a DataLoader.
        batch: the batch size from which the measurements start, or a strategy of noisescale.plans without an `lr_rule`.
        schedule: of the training; None: constant.
        epochs: the length of the training.
        seed: of everything that is trained.
        folder: for what was measured. A recommendation that is called again with the same folder goes on where it was, and with a larger
            budget it measures more. None: a folder that is removed afterwards.
        scheduler: further arguments of `BatchSizeScheduler`, such as max_micro_batch_size or weight.
        trainer: arguments of Lightning's Trainer, such as accelerator or precision.
        tell: see `Tell`. None: a bar on a terminal.
        options: of `RecommendationOptions`: budget, tolerance.

    Raises:
        ConfigError: a value cannot be used, or the folder has the measurements of another training.
    """
    chosen = RecommendationOptions(**options)
    training = Training(module, data, strategy_of(batch), schedule or Constant(), epochs, seed, scheduler or {}, trainer or {})
    with ExitStack() as stack:
        place = Path(folder) if folder is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        identity = {"batch": repr(training.strategy), "schedule": repr(training.schedule), "epochs": epochs, "seed": seed}
        stack.enter_context(without_lightnings_lines())
        shown = stack.enter_context(progress_bar("measuring"))
        return run_recommendation(training, chosen, place, identity, tell or in_words(shown))


def run_recommendation(
    training: Training, options: RecommendationOptions, folder: Path, identity: Mapping[str, Any], tell: Tell | None = None
) -> Recommended:
    """The work of `recommend`: nothing that a file in the folder has is measured again.

    Args:
        training: the training.
        options: what was chosen.
        folder: for the files.
        identity: key -> plain value of what the measurements belong to.
        tell: see `Tell`.
    """
    if training.strategy.lr_rule != "none":
        problem = "would scale the learning rate of each batch a second time, beside the rule that is measured here"
        raise ConfigError("lr_rule", training.strategy.lr_rule, problem, "leave it out")
    same_study(folder / "study.json", {**identity, **asdict(options)}, grows=("budget",))
    probes = Probes(training, options, folder, identity, tell or (lambda _, __: None))
    limit = probes.limit()
    speeds = probes.speeds()
    rates = probes.rates(speeds)
    branches = probes.branches(speeds, rates)
    measured = Measured(
        batch_size=probes.size,
        lr=probes.facts.lr,
        epochs=training.epochs,
        rule=noise_rule_of(probes.facts.optimizer),
        limit=limit,
        limit_was_measured=not isinstance(training.scheduler.get(LIMIT), int),
        speeds=speeds.of_size,
        rates=rates,
        branches=tuple(branches),
    )
    found = recommendation(measured)
    measured = replace(measured, check=probes.check(speeds, rates, found.batch_size, found.lr), cut_short=probes.cut_short())
    found = recommendation(measured)
    return Recommended(found, measured, *_updates(training, probes.facts, found, measured.dual_rule))


def _updates(training: Training, facts: Facts, found: Recommendation, rule: str | None) -> tuple[int, int | None]:
    """Updates of the schedule with the recommended batch, and of its dual."""
    schedule = training.schedule.with_horizon(training.epochs)

    def total(strategy: BatchStrategy) -> int:
        return plan_for_trainer(
            schedule, strategy, facts.num_examples, optimizer=facts.optimizer, max_epochs=training.epochs
        ).total_updates()

    fixed = total(Fixed(size=found.batch_size, last="carry"))
    if found.max_batch_size is None or isinstance(schedule, Constant):
        return fixed, None
    return fixed, total(Dual(size=found.batch_size, max_size=found.max_batch_size, rule=rule, last="carry"))

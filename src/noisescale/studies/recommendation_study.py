"""Which batch size and which learning rate to use: measures within a budget of time, and recommends what the measurements support."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.execution.quiet import without_lightnings_lines
from noisescale.files import write_atomically
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import PARTS, rules_of, sizes_of_branches
from noisescale.measures.range_test import RangeOptions, smoothed
from noisescale.plans.checks import AUTO
from noisescale.plans.duality import Dual
from noisescale.plans.noise import noise_rule_of
from noisescale.plans.strategies import BatchStrategy, Fixed
from noisescale.plans.trainer_limits import plan_for_trainer
from noisescale.progress import Progress, in_words, part_of, progress_bar
from noisescale.schedules import Constant, Schedule, warmup_and_rest
from noisescale.studies.branch_results import PointFound
from noisescale.studies.branch_study import run_branches, same_study
from noisescale.studies.facts import Facts, facts_of
from noisescale.studies.measured import Measured, Rates, RateTrial, Speed
from noisescale.studies.range_study import run_range_test
from noisescale.studies.rate_trials import candidates, rate_trials
from noisescale.studies.recommendation import Recommendation, recommendation
from noisescale.studies.recommendation_options import RecommendationOptions
from noisescale.studies.speeds import speeds_of
from noisescale.studies.time_budget import Cost, affordable
from noisescale.studies.training import Training, strategy_of

__all__ = ["RecommendationOptions", "Recommended", "Tell", "recommend", "run_recommendation"]

Tell = Callable[[str, float], None]
"""Called with what is being measured, and with the share of the budget that has been used."""

SPEEDS, RANGE, TRIALS = 0.1, 0.1, 0.2
"""Shares of the budget for the speeds, the range test, and trainings with several rates. The branches have the rest."""

LIMIT = "max_micro_batch_size"

UPDATES = (50, 200)
"""The fewest and the most updates of the range test."""

SEEDS = 2
"""Trainings with each learning rate."""


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

    In order: the speed of several batch sizes, a learning-rate range test, and branches of equal noise from an early and a late epoch, with
    the gradient noise scale beside them.

    Args:
        module: a LightningModule; afterwards it has the weights that it had before.
        data: its LightningDataModule, or a DataLoader.
        batch: the batch size from which the measurements start, or a strategy of noisescale.plans.
        schedule: of the training; None: constant.
        epochs: the length of the training.
        seed: of everything that is trained.
        folder: for what was measured. A recommendation that is called again with the same folder goes on where it was. None: a folder that
            is removed afterwards.
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
    same_study(folder / "study.json", {**identity, **asdict(options)})
    probes = _Probes(training, options, folder, identity, tell or (lambda _, __: None))
    limit = probes.limit()
    speeds, start = probes.speeds()
    rates = probes.rates(next(each.median for each in speeds if each.batch_size == probes.size))
    branches = probes.branches(speeds, start, rates)
    measured = Measured(
        batch_size=probes.size,
        lr=probes.facts.lr,
        epochs=training.epochs,
        rule=noise_rule_of(probes.facts.optimizer),
        limit=limit,
        limit_was_measured=not isinstance(training.scheduler.get(LIMIT), int),
        speeds=speeds,
        rates=rates,
        branches=tuple(branches),
        tolerance=options.tolerance,
    )
    found = recommendation(measured)
    return Recommended(found, measured, *_updates(training, probes.facts, found))


def _updates(training: Training, facts: Facts, found: Recommendation) -> tuple[int, int | None]:
    """Updates of the schedule with the recommended batch, and of its dual."""
    schedule = training.schedule.with_horizon(training.epochs)

    def total(strategy: BatchStrategy) -> int:
        return plan_for_trainer(
            schedule, strategy, facts.num_examples, optimizer=facts.optimizer, max_epochs=training.epochs
        ).total_updates()

    fixed = total(Fixed(size=found.batch_size, last="carry"))
    if found.max_batch_size is None or isinstance(schedule, Constant):
        return fixed, None
    return fixed, total(Dual(size=found.batch_size, max_size=found.max_batch_size, last="carry"))


def _number(limit: Any) -> int | None:
    return limit if isinstance(limit, int) else None


class _Probes:
    """The measurements of a training, each of which is kept in a file."""

    def __init__(self, training: Training, options: RecommendationOptions, folder: Path, identity: Mapping[str, Any], tell: Tell) -> None:
        self.training, self.options, self.folder, self.identity, self.tell = training, options, folder, identity, tell
        self.began = time.monotonic()
        self.facts = facts_of(replace(training, scheduler={**training.scheduler, LIMIT: _number(training.scheduler.get(LIMIT))}))
        warmup, factor = warmup_and_rest(training.schedule.with_horizon(training.epochs), 0.0)
        self.size = training.strategy(0.0, factor, self.facts.num_examples, warmup).size
        usual = BranchOptions().length_of(self.facts.num_examples, self.size)
        most = min(self.facts.num_examples // 2, usual // PARTS)
        self.sizes = sizes_of_branches(self.size, most, self.facts.smallest)

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.options.budget * 60 - (time.monotonic() - self.began)

    def told(self, what: str, from_share: float = 0.0, to_share: float = 1.0) -> Progress:
        """A function for the progress of one probe, which takes part of the budget."""
        return part_of(self.tell, what, from_share, to_share)

    def limit(self) -> int | None:
        """The largest micro-batch: as it was chosen, or else the largest that fits; None on the CPU, which sets no limit."""
        chosen = self.training.scheduler.get(LIMIT)
        if not isinstance(chosen, int):
            searching = replace(
                self.training, strategy=Fixed(size=self.sizes[-1], last="carry"), scheduler={**self.training.scheduler, LIMIT: AUTO}
            )
            chosen = self._kept("limit.json", lambda: facts_of(searching).limit)
            self.training = replace(self.training, scheduler={**self.training.scheduler, LIMIT: chosen})
        return chosen

    def speeds(self) -> tuple[tuple[Speed, ...], float]:
        """Examples per second of every size, and the seconds that it takes to start a training."""

        def measure() -> dict[str, Any]:
            seconds = SPEEDS * self.options.budget * 60
            speeds, start = speeds_of(self.training, self.sizes, seconds, progress=self.told("speeds", 0.0, SPEEDS))
            return {"speeds": [asdict(each) for each in speeds], "start": start}

        found = self._kept("speeds.json", measure)
        return tuple(Speed(**each) for each in found["speeds"]), float(found["start"])

    def rates(self, speed: float) -> Rates | None:
        """What a range test at the batch size of the training suggests; None if it suggests nothing, or if there is no time for it."""

        def measure() -> dict[str, Any] | None:
            updates = min(UPDATES[1], int(RANGE * self.options.budget * 60 * speed / self.size))
            if updates < UPDATES[0]:
                return None
            progress = self.told("range test", SPEEDS, SPEEDS + RANGE)
            found = run_range_test(self.training, RangeOptions(updates=updates), progress=progress)
            suggestions = found.suggestions.named()
            if not all(map(math.isfinite, suggestions.values())):
                return None
            losses = list(takewhile(math.isfinite, found.losses))
            curve = tuple(zip(found.rates, smoothed(losses, found.width), strict=False))
            rates = Rates(found.size, suggestions, found.rates[-1] if found.diverged else None, curve)
            return asdict(replace(rates, trials=self._trials(rates, speed)))

        found = self._kept("rates.json", measure)
        if found is None:
            return None
        trials = tuple(RateTrial(each["lr"], each["updates"], tuple(map(float, each["losses"]))) for each in found["trials"])
        return Rates(**{**found, "curve": tuple((lr, loss) for lr, loss in found["curve"]), "trials": trials})

    def _trials(self, rates: Rates, speed: float) -> tuple[RateTrial, ...]:
        """Short trainings with rates from the lowest suggestion up to where the range test ended; none if there is no time for them."""
        tried = candidates(min(rates.suggestions.values()), rates.curve[-1][0])
        affordable_updates = TRIALS * self.options.budget * 60 * speed / (self.size * len(tried) * SEEDS)
        updates = min(int(affordable_updates), self.training.epochs * self.facts.num_examples // self.size)
        if updates < UPDATES[0]:
            return ()
        progress = self.told("learning rates", SPEEDS + RANGE, SPEEDS + RANGE + TRIALS)
        return rate_trials(self.training, self.facts, tried, self.size, updates, SEEDS, progress)

    def branches(self, speeds: tuple[Speed, ...], start: float, rates: Rates | None) -> list[PointFound]:
        """Branches from the training at the suggested learning rate: as many as fit into the time that is left."""
        training, n = self.training, self.facts.num_examples
        if rates is not None and rates.suggestions:
            training = replace(training, rate=rates.chosen / self.facts.lr)
        of_size = {each.batch_size: each.median for each in speeds}
        cost = Cost(of_size, of_size.get(self.size, min(of_size.values())), start, len(rules_of(self.facts.optimizer)))

        def choose() -> dict[str, Any] | None:
            found = affordable(
                lambda times, seeds, length: cost.seconds(times, seeds, length, n),
                self.left(),
                training.epochs,
                n,
                self.size,
                self.options.tolerance,
            )
            return None if found is None else asdict(found)

        chosen = self._kept("branch_options.json", choose)
        if chosen is None:
            return []
        identity = {**self.identity, "rate": training.rate}
        progress = self.told("branches", SPEEDS + RANGE + TRIALS, 1.0)
        return run_branches(training, BranchOptions(**chosen), self.folder / "branches", identity, progress=progress)

    def _kept(self, name: str, measure: Callable[[], Any]) -> Any:
        """What a file has, or what `measure` returns, which is then written into it."""
        path = self.folder / name
        if not path.exists():
            write_atomically(path, json.dumps(measure(), indent=2) + "\n")
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError("file", path, "is damaged", "delete it, and the same command measures it again") from error

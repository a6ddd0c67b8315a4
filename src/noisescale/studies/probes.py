"""The measurements of a recommendation, one after the other, within a budget of time; each is kept in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.files import write_atomically
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import PARTS, rules_of, sizes_of_branches
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.measures.range_test import RangeOptions, smoothed
from noisescale.plans.checks import AUTO
from noisescale.plans.strategies import Fixed
from noisescale.progress import Progress, part_of
from noisescale.schedules import warmup_and_rest
from noisescale.studies.branch_results import PointFound, more_telling
from noisescale.studies.branch_study import run_branches
from noisescale.studies.facts import facts_of
from noisescale.studies.measured import PairCheck, Rates, RateTrial, Speed
from noisescale.studies.range_study import run_range_test
from noisescale.studies.rate_trials import candidates, rate_trials, short_training
from noisescale.studies.recommendation_options import RecommendationOptions
from noisescale.studies.speeds import evaluation_of, speeds_of
from noisescale.studies.time_budget import Budget, Cost, affordable, goes_on
from noisescale.studies.training import Training

__all__ = ["LIMIT", "Probes", "Speeds", "Tell"]

Tell = Callable[[str, float], None]
"""Called with what is being measured, and with the share of the budget that has been used."""

SPEEDS, RANGE, TRIALS, CHECK = 0.1, 0.1, 0.2, 0.1
"""Shares of the budget for the speeds, the range test, trainings with several rates, and the last check. The branches have the rest."""

LIMIT = "max_micro_batch_size"

UPDATES = (50, 200)
"""The fewest and the most updates of the range test."""

SEEDS = 2
"""Trainings with each learning rate."""

LARGER, RANGE_TEST, TRAININGS, BRANCHES, LAST = (
    "the speeds of larger batches",
    "a range test",
    "all short trainings with several learning rates",
    "all branches",
    "the last check",
)
"""What there may be no time for."""


@dataclass(frozen=True)
class Speeds:
    """What pieces of work take.

    Attributes:
        of_size: examples per second of batch sizes, ascending.
        start: seconds that it takes to start a training.
        evaluation: (seconds, seconds per example) of an evaluation of the loss.
    """

    of_size: tuple[Speed, ...]
    start: float
    evaluation: tuple[float, float]

    def of(self, size: int) -> float:
        """Examples per second with a batch size, or with the nearest one that was measured."""
        return min(self.of_size, key=lambda each: abs(math.log(each.batch_size / size))).median


class Probes:
    """The measurements of a training. What a file has is not measured again, unless it was cut short and the budget is larger now.

    Attributes:
        facts: of the training.
        size: B, from which the measurements start.
        evaluated: how many examples the short trainings were evaluated on.
    """

    evaluated = 0

    def __init__(self, training: Training, options: RecommendationOptions, folder: Path, identity: Mapping[str, Any], tell: Tell) -> None:
        self.training, self.options, self.folder, self.identity, self.tell = training, options, folder, identity, tell
        self.seconds = options.budget * 60
        self.budget = Budget(self.seconds, folder / "time.json")
        limit = training.scheduler.get(LIMIT)
        self.facts = facts_of(replace(training, scheduler={**training.scheduler, LIMIT: limit if isinstance(limit, int) else None}))
        warmup, factor = warmup_and_rest(training.schedule.with_horizon(training.epochs), 0.0)
        self.size = training.strategy(0.0, factor, self.facts.num_examples, warmup).size
        usual = BranchOptions().length_of(self.facts.num_examples, self.size)
        most = min(self.facts.num_examples // 2, usual // PARTS)
        self.sizes = sizes_of_branches(self.size, most, self.facts.smallest)

    def told(self, what: str, from_share: float = 0.0, to_share: float = 1.0) -> Progress:
        """A function for the progress of one probe, which takes part of the budget."""
        return part_of(self.tell, what, from_share, to_share)

    def asked(self, what: str) -> Callable[[float], bool]:
        """A function that says whether there is time for a piece of a probe."""
        return lambda seconds: self.budget.may_begin(what, seconds)

    def cut_short(self) -> str:
        """What there was no time for, in words; what was used is written down."""
        self.budget.save()
        return ", ".join(self.budget.cut)

    def limit(self) -> int | None:
        """The largest micro-batch: as it was chosen, or else the largest that fits; None on the CPU, which sets no limit."""
        chosen = self.training.scheduler.get(LIMIT)
        on_cpu = self.facts.device == "cpu"
        if chosen is None and on_cpu:  # nothing was asked for, and there is nothing to be found
            return None
        if not isinstance(chosen, int):
            size = self.sizes[0 if on_cpu else -1]  # an update of it is trained, for nothing on the CPU
            strategy, scheduler = Fixed(size=size, last="carry"), {**self.training.scheduler, LIMIT: AUTO}
            searching = replace(self.training, strategy=strategy, scheduler=scheduler)
            chosen = self._kept("limit.json", lambda: {"limit": facts_of(searching).limit})["limit"]
            self.training = replace(self.training, scheduler={**self.training.scheduler, LIMIT: chosen})
        return chosen

    def speeds(self) -> Speeds:
        """Examples per second of every size that there is time for, and what starts and evaluations take."""

        def measure() -> dict[str, Any]:
            seconds, began = SPEEDS * self.seconds, self.budget.used
            evaluation = evaluation_of(self.training, self.sizes[0])

            def may_begin(expected: float) -> bool:
                return self.budget.used - began + expected <= 2 * seconds and self.budget.left > expected

            progress = self.told("speeds", 0.0, SPEEDS)
            found, start = speeds_of(self.training, self.sizes, seconds, progress=progress, may_begin=may_begin)
            cut = [LARGER] if len(found) < len(self.sizes) else []
            return {"speeds": [asdict(each) for each in found], "start": start, "evaluation": evaluation, "cut": cut}

        found = self._kept("speeds.json", measure)
        return Speeds(tuple(Speed(**each) for each in found["speeds"]), float(found["start"]), tuple(found["evaluation"]))

    def rates(self, speeds: Speeds) -> Rates | None:
        """What a range test at the batch size of the training suggests; None if it suggests nothing, or if there is no time for it."""

        def measure() -> dict[str, Any]:
            speed = speeds.of(self.size)
            updates = min(UPDATES[1], int(RANGE * self.seconds * speed / self.size))
            if updates < UPDATES[0] or self.budget.left < UPDATES[0] * self.size / speed:
                return {"rates": None, "cut": [RANGE_TEST]}
            progress = self.told("range test", SPEEDS, SPEEDS + RANGE)
            found = run_range_test(self.training, RangeOptions(updates=updates), progress=progress)
            suggestions = found.suggestions.named()
            if not all(map(math.isfinite, suggestions.values())):
                return {"rates": None, "cut": []}
            losses = list(takewhile(math.isfinite, found.losses))
            curve = tuple(zip(found.rates, smoothed(losses, found.width), strict=False))
            rates = Rates(found.size, suggestions, found.rates[-1] if found.diverged else None, curve)
            trials, evaluated = self._trials(rates, speeds)
            whole = trials and len(trials[0].losses) == SEEDS
            return {"rates": asdict(replace(rates, trials=trials)), "evaluated": evaluated, "cut": [] if whole else [TRAININGS]}

        kept = self._kept("rates.json", measure)
        found, self.evaluated = kept["rates"], kept.get("evaluated", 0)
        if found is None:
            return None
        trials = tuple(RateTrial(each["lr"], each["updates"], tuple(map(float, each["losses"]))) for each in found["trials"])
        return Rates(**{**found, "curve": tuple((lr, loss) for lr, loss in found["curve"]), "trials": trials})

    def _trials(self, rates: Rates, speeds: Speeds) -> tuple[tuple[RateTrial, ...], int]:
        """Short trainings with rates from the lowest suggestion up to where the range test ended; none if there is no time for them.

        With how many examples they were evaluated on.
        """
        tried = candidates(min(rates.suggestions.values()), rates.curve[-1][0])
        seconds = TRIALS * self.seconds / (len(tried) * SEEDS)
        evaluated = self._evaluated(speeds, seconds)
        updates = self._updates(speeds, seconds, self.size, evaluated)
        if updates < min(UPDATES[0], self.training.epochs * self.facts.num_examples // self.size):  # that may be less
            return (), evaluated
        progress = self.told("learning rates", SPEEDS + RANGE, SPEEDS + RANGE + TRIALS)
        fixed, asked = self._fixed(evaluated), self.asked(TRAININGS)
        return rate_trials(self.training, self.facts, tried, self.size, updates, SEEDS, fixed, progress, asked), evaluated

    def _evaluated(self, speeds: Speeds, seconds: float) -> int:
        """How many examples the loss of a short training is evaluated on: as many as take a quarter of its time."""
        affordable_examples = (seconds / 4 - speeds.evaluation[0]) / max(speeds.evaluation[1], 1e-9)
        return int(min(4096, max(256, affordable_examples)))

    def _fixed(self, examples: int) -> FixedExamples:
        return FixedExamples(examples, self.training.seed, weight=self.training.scheduler.get("weight"))

    def _updates(self, speeds: Speeds, seconds: float, size: int, evaluated: int) -> int:
        """Updates of a training that takes so many seconds with its start and an evaluation; no more than the whole training has."""
        n = min(evaluated, self.facts.num_examples)
        left = seconds - speeds.start - speeds.evaluation[0] - speeds.evaluation[1] * n
        return min(int(left * speeds.of(size) / size), self.training.epochs * self.facts.num_examples // size)

    def branches(self, speeds: Speeds, rates: Rates | None) -> list[PointFound]:
        """Branches from the training at the suggested learning rate: as many as fit into the time that is left before the last check.

        Those that were begun before are finished first. A budget that is larger than before buys what tells more, if there is time for it.
        """
        training, n = self.training, self.facts.num_examples
        if rates is not None and rates.suggestions:
            training = replace(training, rate=rates.chosen / self.facts.lr)
        of_size = {each.batch_size: each.median for each in speeds.of_size}
        cost = Cost(of_size, speeds.of(self.size), speeds.start, len(rules_of(self.facts.optimizer)), speeds.evaluation)
        path = self.folder / "branch_options.json"
        before = self._read(path) if path.exists() else {}
        number, known, found = int(before.get("number", 0)), None, list[PointFound]()
        if before.get("options") and before["rate"] == training.rate:
            known = BranchOptions(**before["options"])
            found = self._branch(training, known, number)
            if (previous := before.get("previous")) is not None:  # those may tell more, if there was no time for all of the others
                found = more_telling(found, self._branch(training, BranchOptions(**previous["options"]), previous["number"]))
        chosen_before = before.get("rate") == training.rate and before.get("budget", 0.0) >= self.options.budget
        if BRANCHES in self.budget.cut or chosen_before:
            self.budget.cut += [] if known is not None else [BRANCHES]
            return found
        left, tolerance = self.budget.left - CHECK * self.seconds, self.options.tolerance
        chosen = affordable(cost, left, training.epochs, n, self.size, tolerance, known) if len(of_size) > 1 else None
        kept = {"number": number, "rate": training.rate, "options": _plain(chosen or known), "budget": self.options.budget}
        if chosen is not None and not (known is not None and goes_on(known, chosen)):
            kept |= {"number": number + 1, "previous": None if known is None else {"number": number, "options": _plain(known)}}
            number += 1
        write_atomically(path, json.dumps(kept, indent=2) + "\n")
        if chosen is None:
            self.budget.cut += [] if known is not None else [BRANCHES]
            return found
        return more_telling(self._branch(training, chosen, number), found)

    def _branch(self, training: Training, options: BranchOptions, number: int) -> list[PointFound]:
        """The branches in a folder, those that are missing first trained as far as there is time before the last check."""
        return run_branches(
            training,
            options,
            self.folder / f"branches-{number}",
            {**self.identity, "rate": training.rate},
            progress=self.told("branches", SPEEDS + RANGE + TRIALS, 1.0 - CHECK),
            may_begin=lambda seconds: self.budget.may_begin(BRANCHES, seconds + CHECK * self.seconds),
        )

    def check(self, speeds: Speeds, rates: Rates | None, size: int, lr: float) -> PairCheck | None:
        """Short trainings from new weights with what is recommended; None if that was trained so already, or if there is no time for it."""
        trial = None if rates is None else next((each for each in rates.trials if each.lr == rates.chosen), None)
        if trial is not None and (size, lr) == (self.size, trial.lr):
            return None
        name = f"check-{size}-{lr:.6g}.json"

        def measure() -> dict[str, Any]:
            seconds = CHECK * self.seconds / SEEDS
            evaluated = self.evaluated if trial is not None else self._evaluated(speeds, seconds)
            updates = self._updates(speeds, seconds, size, evaluated) if trial is None else max(1, trial.updates * self.size // size)
            expected = speeds.start + updates * size / speeds.of(size) + speeds.evaluation[0] + speeds.evaluation[1] * evaluated
            losses = []
            for seed in range(SEEDS):
                if updates < 1 or self.budget.left < expected:
                    return {"check": None, "cut": [LAST]}
                losses.append(short_training(self.training, self.facts, lr, size, updates, seed, self._fixed(evaluated)))
                self.tell("last check", 1.0 - CHECK + CHECK * (seed + 1) / SEEDS)
            self.budget.may_begin(LAST)
            against = trial.losses if trial is not None else ()
            return {"check": asdict(PairCheck(size, lr, updates, tuple(losses), against)), "cut": []}

        found = self._kept(name, measure)["check"]
        if found is None:
            return None
        return PairCheck(**{**found, "losses": tuple(map(float, found["losses"])), "against": tuple(map(float, found["against"]))})

    def _kept(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a file has, or what `measure` returns, which is then written into it with the budget that it was measured within.

        `measure` returns with the key `cut` what it had no time for.
        """
        path = self.folder / name
        found = self._read(path) if path.exists() else None
        if found is None or "budget" not in found or (found.get("cut") and self.options.budget > found["budget"]):
            write_atomically(path, json.dumps({**measure(), "budget": self.options.budget}, indent=2) + "\n")
            found = self._read(path)
        self.budget.cut += [what for what in found.get("cut", ()) if what not in self.budget.cut]
        self.budget.save()
        return found

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError("file", path, "is damaged", "delete it, and the same command measures it again") from error
        return found


def _plain(options: BranchOptions | None) -> dict[str, Any] | None:
    if options is None:
        return None
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()}

"""What comes of a claim: its tuning runs, the runs of its arms, and the verdict on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from noisescale.app.claim_runs import Runner, found_runs
from noisescale.errors import ConfigError
from noisescale.studies.claims.claim import FIRST_TUNING_SEED, Arm, Claim
from noisescale.studies.claims.metrics import Metric
from noisescale.studies.claims.result import Result
from noisescale.studies.claims.toys import FUNCTIONS
from noisescale.studies.claims.verdict import INCONCLUSIVE, judge
from noisescale.studies.runs import COMPLETE, Run, identity

__all__ = ["result_of", "words_of"]

Words = tuple[str, ...]

EVERY_RUN = ("callbacks=light", "logger=csv-only", "threads=1")
"""The first words of every run: steps.csv and epochs.csv, but no checkpoints and no TensorBoard. The words of a claim may say otherwise."""


def result_of(claim: Claim, folder: Path, runner: Runner) -> Result:
    """Carry out the runs of a claim that are missing in `folder`, and judge it.

    Raises:
        ConfigError: an arm cannot be tuned, because no candidate has a value.
        HydraException: the words of a run make no config.
    """
    chosen, tried, tuning_seconds, failed_candidates = _tuned(claim, folder, runner)
    trained = {name: arm for name, arm in claim.arms.items() if arm.function is None}
    wanted = {name: [words_of(claim, arm, chosen.get(name, ()), seed) for seed in claim.verdict_seeds] for name, arm in trained.items()}
    # Seed by seed, so that the arms of a seed are trained at about the same time: their seconds are compared.
    runner.carry_out([words for each in zip(*wanted.values(), strict=True) for words in each], folder, claim.name)
    found = found_runs(folder)
    runs = {name: [found.get(identity(words)) for words in each] for name, each in wanted.items()}
    returned = {
        name: [FUNCTIONS[arm.function](seed=seed, **arm.arguments) for seed in claim.verdict_seeds]
        for name, arm in claim.arms.items()
        if arm.function is not None
    }
    values = {
        key: {name: [metric.of_function(each) for each in results] for name, results in returned.items()}
        if metric.source == "function"
        else {name: [_value(metric, run) for run in each] for name, each in runs.items()}
        for key, metric in claim.metrics.items()
    }
    failed, verdict = (*failed_candidates, *_failures(claim, wanted, runs)), judge(claim, values)
    if failed:
        verdict = replace(verdict, word=INCONCLUSIVE, why=f"{len(failed)} runs have not ended as planned")
    return Result(claim, runs, values, verdict, chosen, failed, tried, tuning_seconds)


def words_of(claim: Claim, arm: Arm, chosen: Sequence[str], seed: int) -> Words:
    """The overrides of one run: of a key that is given twice the last one counts."""
    found: dict[str, str] = {}
    for word in (*EVERY_RUN, *claim.words, *arm.words, *chosen, f"seed={seed}"):
        found.pop(key := word.partition("=")[0], None)
        found[key] = word
    return tuple(found.values())


def _tuned(claim: Claim, folder: Path, runner: Runner) -> tuple[dict[str, Words], dict[str, dict[str, float | None]], float, list[str]]:
    """arm -> the best candidate of its grid, by the mean of the tuning metric over the tuning seeds; what each had; the seconds that they
    took; runs that failed.

    A candidate of which a run has no value, such as one that diverged where `if_diverged` is not given, is not chosen.
    """
    arms = {name: arm for name, arm in claim.arms.items() if arm.grid}
    if not arms or claim.tuning is None:
        return {}, {}, 0.0, []
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + claim.tuning_seeds)
    tried = {name: {each: [words_of(claim, arm, each, seed) for seed in seeds] for each in arm.candidates()} for name, arm in arms.items()}
    every_run = [words for candidates in tried.values() for runs in candidates.values() for words in runs]
    runner.carry_out(every_run, folder, f"{claim.name}: tuning")
    found = found_runs(folder)
    key, best = claim.tuning
    chosen, shown, seconds, failed = {}, {}, 0.0, []
    for name, candidates in tried.items():
        for words in (words for runs in candidates.values() for words in runs):
            run = found.get(identity(words))
            seconds += float(run.results.get("seconds") or 0) if run is not None else 0.0
            if run is None or run.state not in COMPLETE:
                state = "was not carried out" if run is None else f"{run.state}: {run.reason}"
                failed.append(f"arm {name}, tuning: {state}  ({' '.join(words)})")
        values = {each: [_value(claim.metrics[key], found.get(identity(words))) for words in runs] for each, runs in candidates.items()}
        means = {each: sum(v for v in numbers if v is not None) / len(numbers) for each, numbers in values.items() if None not in numbers}
        if not means:
            raise ConfigError(f"arms.{name}.grid", dict(arms[name].grid), f"no candidate of {claim.name} has a {key}", f"see {folder}")
        chosen[name] = (min if best == "min" else max)(means, key=lambda each: means[each])
        shown[name] = {" ".join(each): means.get(each) for each in candidates}
    return chosen, shown, seconds, failed


def _value(metric: Metric, run: Run | None) -> float | None:
    return None if run is None or run.state not in COMPLETE else metric.of_run(run)


def _failures(claim: Claim, wanted: Mapping[str, Sequence[Words]], runs: Mapping[str, Sequence[Run | None]]) -> Iterator[str]:
    for name, each in runs.items():
        for seed, words, run in zip(claim.verdict_seeds, wanted[name], each, strict=True):
            if run is None or run.state not in COMPLETE:
                state = "was not carried out" if run is None else f"{run.state}: {run.reason}"
                yield f"arm {name}, seed {seed}: {state}  ({' '.join(words)})"

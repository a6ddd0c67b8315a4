"""Runs compared: each group of runs that differ in their seed alone, its curves, its final values, and what became of its runs."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from noisescale.studies.folding import Curve, Spread, spread
from noisescale.studies.groups import Group, grouped, seed_of
from noisescale.studies.headline import headline
from noisescale.studies.runs import COMPLETE, STATES, Run
from noisescale.studies.series import Series, means_over_epochs, read_series, without_spikes

__all__ = ["CLOCKS", "SCHEDULED", "Arm", "Comparison", "Member", "compare", "counts_in_words"]

CLOCKS = {"epochs": ("epoch", "epoch"), "updates": ("updates", "step"), "examples": ("examples_seen", "examples_seen")}
"""Name of a clock -> its column in epochs.csv and in steps.csv."""

SCHEDULED = ("lr", "effective_batch_size", "g")
"""The columns of steps.csv that are drawn over epochs."""

FINISHED = ("completed", "stopped")
"""States of runs whose final values count."""

TRAIN_LOSS = ("train/loss", "train_loss", "loss")
_NO_METRIC = ("epoch", "updates", "examples_seen", "seconds", "examples_per_second")
_STEP_GROUPS = 300
_PANELS = 4


@dataclass(frozen=True)
class Member:
    """One run of an arm.

    Attributes:
        run: its files.
        seed: None if it is not known.
        counts: whether its final values and its curves are part of the means: it is finished, and no other run of the arm with this seed
            counts.
        epochs, steps: the rows of epochs.csv, and those of steps.csv that a figure can show.
    """

    run: Run
    seed: int | None
    counts: bool
    epochs: Series
    steps: Series

    @cached_property
    def test(self) -> tuple[str, float] | None:
        """(name, value) of the metric of its test, which may be nan; None if it was not tested."""
        try:
            return headline(self.run.results)
        except (TypeError, ValueError):  # results.json is not ours, or is damaged
            return None

    def tested(self, name: str) -> float | None:
        """The value of this metric of its test, if it has one that is finite."""
        return self.test[1] if self.test is not None and self.test[0] == name and math.isfinite(self.test[1]) else None

    @property
    def monitored(self) -> tuple[str, str]:
        """(tag, max or min) of the metric by which it chooses its best checkpoint; empty words if its config does not say."""
        task = (self.run.config or {}).get("task")
        found = [str(task.get(key) or "") for key in ("monitor", "mode")] if isinstance(task, Mapping) else ["", ""]
        return found[0], found[1]

    @property
    def updates(self) -> int | None:
        """The updates that it has done, as far as its files say. The results of a run that has gone on since are older than its rows."""
        rows = _whole(self.steps.last.get("step"), 1) or _whole(self.epochs.last.get("updates"))
        results = _whole(self.run.results.get("updates"))
        return results if results is not None and (self.run.state in COMPLETE or rows is None) else rows

    @property
    def seconds(self) -> float | None:
        """The seconds of its training; those of its whole epochs, if it is not complete."""
        found = self.run.results.get("seconds")
        if self.run.state in COMPLETE and isinstance(found, (int, float)) and math.isfinite(found):
            return float(found)
        _, seconds = self.epochs.pairs("epoch", "seconds")
        return math.fsum(seconds) if seconds else None

    @property
    def remark(self) -> str:
        """Why it has not ended as planned, and what is wrong with its files."""
        ended = self.run.reason if self.run.state != "completed" else ""
        return "; ".join(filter(None, [ended, *self.damage]))

    @property
    def damage(self) -> list[str]:
        """What is wrong with its files; of a run that is carried out, only what has not been begun: it may be writing a line."""
        files = (self.steps, self.epochs)
        return [file.damage for file in files if file.damage and not (self.run.state == "running" and len(file))]

    def curve(self, tag: str, clock: str) -> Curve:
        """A metric over a clock of `CLOCKS`. Without epochs.csv the training loss is made from steps.csv."""
        of_epochs, of_steps = CLOCKS[clock]
        found = self.epochs.pairs(of_epochs, tag)
        if not found[0] and tag in TRAIN_LOSS:
            found = self._loss_of_updates.pairs(of_steps, "loss")
        return _increasing(*found)

    def scheduled(self, name: str) -> Curve:
        """A column of `SCHEDULED` over epochs, without what one update alone has, such as a smaller batch at the end of a pass."""
        clock, values = self.steps.pairs("epoch", name)
        return _increasing(clock, without_spikes(values))

    @cached_property
    def _loss_of_updates(self) -> Series:
        return means_over_epochs(read_series(self.run.folder / "steps.csv"))


@dataclass(frozen=True)
class Arm:
    """A group of runs with what their files say."""

    group: Group
    members: tuple[Member, ...]

    @property
    def counted(self) -> list[Member]:
        return [member for member in self.members if member.counts]

    @property
    def status(self) -> str:
        """`2 completed, 1 diverged`."""
        return counts_in_words(member.run.state for member in self.members)

    def final(self, name: str) -> Spread | None:
        """Mean and standard deviation of a metric of the test over the runs that count."""
        return spread([value for member in self.counted if (value := member.tested(name)) is not None])

    def last(self, tag: str) -> Spread | None:
        """The same of the last value of a metric of epochs.csv."""
        curves = [member.curve(tag, "epochs") for member in self.counted]
        return spread([y[-1] for _, y in curves if y])

    @property
    def updates(self) -> tuple[int, int] | None:
        """The smallest and the largest number of updates of the runs that count; of all runs, if none counts."""
        found = [member.updates for member in self.counted or self.members if member.updates is not None]
        return (min(found), max(found)) if found else None

    @property
    def seconds(self) -> float | None:
        """The mean of their seconds."""
        found = [member.seconds for member in self.counted or self.members if member.seconds is not None]
        return math.fsum(found) / len(found) if found else None


@dataclass(frozen=True)
class Comparison:
    """Arms, in the order of their first runs, and what to say about all of them.

    Attributes:
        arms: the groups.
        metrics: the names of the metrics of the tests, such as `test accuracy`.
        panels: the tags of epochs.csv to draw: the losses, and what the runs monitor.
        notes: lines about what a reader would otherwise not see.
    """

    arms: list[Arm]
    metrics: list[str]
    panels: list[str]
    notes: list[str]

    @property
    def members(self) -> list[Member]:
        return [member for arm in self.arms for member in arm.members]

    @property
    def lasts(self) -> list[str]:
        """Tags whose last values stand in the table: the training loss, and what is monitored if a run that counts was not tested."""
        tested = all(member.test is not None for member in self.members if member.counts)
        return [tag for tag in self.panels if tag in TRAIN_LOSS or (not tested and not tag.endswith("loss"))]


def compare(runs: Sequence[Run]) -> Comparison:
    """Read the files of runs, and group them."""
    arms = [_arm(group) for group in grouped(runs)]
    members = [member for arm in arms for member in arm.members]
    metrics = list(dict.fromkeys(member.test[0] for member in members if member.test is not None and member.counts))
    return Comparison(arms, metrics, _panels(members), _notes(arms))


def counts_in_words(states: Any) -> str:
    """`2 completed, 1 diverged`, in the order of `STATES`."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _arm(group: Group) -> Arm:
    seeds = [seed_of(run) for run in group.runs]
    counting: dict[Any, Run] = {}
    for run, seed in zip(group.runs, seeds, strict=True):
        if run.state in FINISHED:
            counting[run.folder if seed is None else seed] = run  # of equal seeds the last one
    chosen = {run.folder for run in counting.values()}
    return Arm(
        group,
        tuple(
            Member(run, seed, run.folder in chosen, read_series(run.folder / "epochs.csv"), _steps(run))
            for run, seed in zip(group.runs, seeds, strict=True)
        ),
    )


def _steps(run: Run) -> Series:
    return read_series(run.folder / "steps.csv", _STEP_GROUPS)


def _panels(members: Sequence[Member]) -> list[str]:
    """The training loss, the validation loss, what is monitored, and other metrics of the validation, as far as there are any."""
    tags = dict.fromkeys(tag for member in members for tag in member.epochs.columns if tag not in _NO_METRIC)
    drawn = [tag for tag in tags if any(member.curve(tag, "epochs")[0] for member in members)]
    train = [tag for tag in TRAIN_LOSS if tag in drawn] or TRAIN_LOSS[:1] * any("loss" in member.steps.columns for member in members)
    loss = [tag for tag in drawn if re.fullmatch(r"val(id)?[/_]loss", tag)]
    monitored = [tag for tag in dict.fromkeys(member.monitored[0] for member in members) if tag in drawn]
    validated = [tag for tag in drawn if re.match(r"val(id)?[/_]", tag)]
    rest = monitored if set(monitored) - set(loss) else [*monitored, *validated]
    return [*dict.fromkeys([*train[:1], *loss, *rest, *([] if validated else drawn)])][:_PANELS]


def _notes(arms: Sequence[Arm]) -> list[str]:
    notes = []
    for arm in arms:
        finished = sorted(member.seed for member in arm.members if member.run.state in FINISHED and member.seed is not None)
        for seed, same in groupby(finished):
            if (times := len([*same])) > 1:
                kept = next(member.run.folder.name for member in arm.counted if member.seed == seed)
                notes.append(f"{arm.group.name}: seed {seed} was run {times} times; the last of these runs, {kept}, counts")
        lengths = {member.updates for member in arm.counted}
        if len(lengths) > 1:
            notes.append(f"{arm.group.name}: its runs differ in their updates, and curves of means end with the shortest run")
        notes += [f"{os.path.relpath(member.run.folder)} counts, but {damage}" for member in arm.counted for damage in member.damage]
    commits = {member.run.commit[:7] for arm in arms for member in arm.members if member.run.commit}
    if len(commits) > 1:
        notes.append(f"the runs were begun by {len(commits)} commits: {', '.join(sorted(commits))}")
    return notes


def _whole(value: Any, more: int = 0) -> int | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) + more if number else None


def _increasing(x: Sequence[float], y: Sequence[float]) -> Curve:
    """The points whose x is larger than that of all points before."""
    kept: tuple[list[float], list[float]] = ([], [])
    for a, b in zip(x, y, strict=True):
        if not kept[0] or a > kept[0][-1]:
            kept[0].append(a)
            kept[1].append(b)
    return kept

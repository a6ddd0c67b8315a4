"""Find the critical batch size of a training by branches: from several of its checkpoints, resumable, with files of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from noisescale.errors import ConfigError
from noisescale.execution.fork import Trunk
from noisescale.execution.quiet import without_lightnings_lines
from noisescale.files import read_rows, write_rows
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branch_verdicts import Comparison, Reference, compare, critical_batch
from noisescale.measures.branches import HALF, PARTS, Arm, examples_of_branch, rules_of, sizes_of_branches
from noisescale.measures.fixed_loss import FixedExamples
from noisescale.plans.strategies import BatchStrategy
from noisescale.progress import Progress, progress_of
from noisescale.schedules import Constant, Schedule
from noisescale.studies.branch_results import PointFound, found_at, reference_of
from noisescale.studies.branching import COLUMNS, BranchRow, Point, grow_trunk, mean_seconds, probe_point, read_trunk, size_at, train_branch
from noisescale.studies.same_study import same_study
from noisescale.studies.training import Training, strategy_of

__all__ = ["MayBegin", "branches", "run_branches"]

MayBegin = Callable[[float], bool]
"""Called before each piece of work with the seconds that it may take, 0 if nothing is known: whether there is time for it."""


class _NoTimeLeft(Exception):
    """There is no time for the next piece of work."""


def branches(
    module: Any,
    data: Any,
    batch: int | BatchStrategy,
    *,
    schedule: Schedule | None = None,
    epochs: int = 1,
    seed: int = 0,
    folder: str | Path | None = None,
    ckpt_path: str | Path | None = None,
    scheduler: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> list[PointFound]:
    """The critical batch size of a training, measured by branches at some of its checkpoints.

    From each checkpoint short trainings go on with the batch sizes B/4, B/2, B, 2 B, ..., each with the same number of examples, and the
    learning rate scaled such that the noise is the same. The critical batch size is the largest up to which the loss at the end is the
    same as with the smallest, within a tolerance. What measures.branches says of one rule applies: only branches of equal noise compare.

    Args:
        module: a LightningModule; afterwards it has the weights that it had before.
        data: its LightningDataModule, or a DataLoader.
        batch: the batch size of the training, or a strategy of noisescale.plans.
        schedule: of the training; None: constant. A branch holds the learning rate that it begins with.
        epochs: the length of the training.
        seed: of the training and, together with the number of a seed, of its branches.
        folder: for the checkpoints, branches.csv and points.csv. A study that is called again with the same folder goes on where it was.
            None: a folder that is removed afterwards.
        ckpt_path: a checkpoint of a training with `BatchSizeScheduler` to branch from, in place of a training that is carried out here.
        scheduler: further arguments of `BatchSizeScheduler`, such as max_micro_batch_size or weight.
        trainer: arguments of Lightning's Trainer, such as accelerator or precision.
        progress: is called with the share of the work that is done, 0 to 1. None: a bar on a terminal.
        options: of `BranchOptions`: at, length, sizes, seeds, tolerance, gain_tolerance, examples.

    Returns:
        What was found at each checkpoint, in order.

    Raises:
        ConfigError: a value cannot be used, or the folder has the branches of another training.

    Sources: Merrill et al. 2505.23971, who branch language models. Not to be confused with the gradient noise scale B_simple, which is
    measured at each checkpoint, too, and is known to mislead (2505.23971).
    """
    chosen = BranchOptions(**options)
    training = Training(module, data, strategy_of(batch), schedule or Constant(), epochs, seed, scheduler or {}, trainer or {})
    with ExitStack() as stack:
        place = Path(folder) if folder is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        identity = {"batch": repr(training.strategy), "schedule": repr(training.schedule), "epochs": epochs, "seed": seed}
        stack.enter_context(without_lightnings_lines())
        shown = stack.enter_context(progress_of("branches", progress))
        return run_branches(training, chosen, place, identity, None if ckpt_path is None else Path(ckpt_path), shown)


def run_branches(
    training: Training,
    options: BranchOptions,
    folder: Path,
    identity: Mapping[str, Any],
    ckpt_path: Path | None = None,
    progress: Progress | None = None,
    found_one: Callable[[PointFound], None] | None = None,
    may_begin: MayBegin | None = None,
) -> list[PointFound]:
    """The work of `branches`: nothing that a file in the folder has is trained again.

    A study in the same folder may have more seeds, or later times after those that are there.

    Args:
        training: the training.
        options: of the branches.
        folder: for the files.
        identity: key -> plain value of what the branches in the folder belong to, compared with what is there.
        ckpt_path: see `branches`.
        progress: see `branches`.
        found_one: is called with what was found at a checkpoint, once its branches are done.
        may_begin: see `MayBegin`. Where it says no, the study ends: a checkpoint without a size that all seeds have is left out of what is
            returned, and the last one may lack its larger sizes.
    """
    if ckpt_path is not None and options.at is not None:
        raise ConfigError("at", list(options.at), "the branches begin at a checkpoint", "leave it out")
    mine = {**identity, **_plain(asdict(options)), "ckpt_path": None if ckpt_path is None else str(ckpt_path)}
    same_study(folder / "study.json", mine, grows=("seeds", "at"))
    times = (0.0,) if ckpt_path is not None else options.times(training.epochs)
    paths = [ckpt_path or folder / f"point-{number}.ckpt" for number in range(len(times))]
    study = _Study(training, options, folder, len(times), progress, may_begin)
    found = []
    with training.left_as_it_was():
        for number, path in enumerate(paths):
            try:
                if ckpt_path is None:
                    study.grow(dict(zip(times, paths, strict=True)), number)
                found.append(study.branch(number, path))
            except _NoTimeLeft:
                found += study.what_is_there(number)
                break
            if found_one is not None:
                found_one(found[-1])
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in values.items()}


@dataclass
class _Study:
    """The branches of a training, one after the other."""

    training: Training
    options: BranchOptions
    folder: Path
    points: int
    progress: Progress | None
    may_begin: MayBegin | None = None

    def __post_init__(self) -> None:
        self.rows = [BranchRow.of_row(row) for row in read_rows(self.folder / "branches.csv")]
        self.known = {row["point"]: Point.of_row(row) for row in read_rows(self.folder / "points.csv")}
        self.fixed = FixedExamples(self.options.examples, self.training.seed, weight=self.training.scheduler.get("weight"))
        self.left: list[int] = []  # updates of each branch that is still to come, if none breaks

    def grow(self, points: Mapping[float, Path], number: int) -> None:
        """Train the training up to one of its checkpoints; without a limit of time up to all of them at once."""
        upto = dict(list(points.items())[: number + 1]) if self.may_begin is not None else points
        if not all(path.exists() for path in upto.values()):
            before = [at for at, path in points.items() if path.exists()]
            known = next(iter(self.known.values()), None)
            epochs = max(upto) - max(before, default=0.0)
            self._begin(0.0 if known is None else epochs * known.num_examples / known.size * mean_seconds(self.rows)[1])
            grow_trunk(self.training, upto)

    def what_is_there(self, number: int) -> list[PointFound]:
        """What the branches from a checkpoint have shown so far; empty without a size that all seeds have."""
        if str(number) not in self.known:
            return []
        found = found_at(self.known[str(number)], self.rows, self.options)
        return [found] if found.rules else []

    def _begin(self, seconds: float) -> None:
        if self.may_begin is not None and not self.may_begin(seconds):
            raise _NoTimeLeft

    def branch(self, number: int, path: Path) -> PointFound:
        """Train all branches from a checkpoint."""
        trunk = read_trunk(path)
        point = self._point(number, path, trunk)
        sizes = self._sizes(point)
        rules = rules_of(point.optimizer)
        expected = [point.examples // size for size in sizes for _ in range(self.options.seeds)]
        self.left = expected * (len(rules) * (self.points - number))
        for rule in reversed(rules):  # that of the plan first: time may be short
            reference: Reference | None = None
            compared: dict[int, Comparison] = {}
            for place, size in enumerate(sizes):
                rows = self._train(point, path, trunk, Arm(rule, size))
                reference = reference or reference_of(rows, self.options)
                compared[size] = compare([row.curve.end for row in rows], reference)
                if compared[size].verdict == "worse":
                    for each in (critical_batch(compared).at_least, size):
                        self._train(point, path, trunk, Arm(rule, int(each), HALF))
                    del self.left[: self.options.seeds * (len(sizes) - place - 1)]
                    break
        return found_at(point, self.rows, self.options)

    def _train(self, point: Point, path: Path, trunk: Trunk, arm: Arm) -> list[BranchRow]:
        """The branches of an arm, one for each seed; those that are not known are trained."""
        there = {row.seed: row for row in self.rows if row.point == point.point and row.arm == arm}
        for seed in range(self.options.seeds):
            if seed not in there:
                fixed, each = mean_seconds(self.rows) if self.rows else (0.0, 0.0)
                self._begin(fixed + each * (point.examples // arm.size))
                self._advance(f"epoch {trunk.epoch:.3g}, B = {arm.size}, lr {trunk.lr * arm.rate(point.size):.2g}, seed {seed}")
                there[seed] = train_branch(self.training, path, trunk, point, arm, seed, self.fixed)
                self.rows.append(there[seed])
                write_rows(self.folder / "branches.csv", COLUMNS, (row.as_row() for row in self.rows))
            if arm.factor == 1.0 and self.left:
                del self.left[0]
            self._advance()
        rows = [there[seed] for seed in range(self.options.seeds)]
        _refuse_equal_seeds(rows)
        return rows

    def _point(self, number: int, path: Path, trunk: Trunk) -> Point:
        known = self.known.get(str(number))
        if known is not None:
            return known
        self._begin(0.0)
        size = size_at(self.training, trunk)
        probed = probe_point(self.training, path, trunk, size, self.fixed)
        length = self.options.length_of(trunk.num_examples, size)
        most = min(trunk.num_examples // 2, length // PARTS)
        sizes = self.options.sizes or sizes_of_branches(size, most, probed["smallest"])
        _check_sizes(sizes, trunk.num_examples, length, self.options.sizes is None)
        examples = examples_of_branch(length, sizes)
        point = Point(number, trunk.step, trunk.epoch, trunk.num_examples, size, trunk.lr, examples, **probed)
        self.known[str(number)] = point
        columns = [each.name for each in fields(Point)]
        write_rows(self.folder / "points.csv", columns, (asdict(each) for each in self.known.values()))
        return point

    def _sizes(self, point: Point) -> list[int]:
        if self.options.sizes is not None:
            return list(self.options.sizes)
        length = self.options.length_of(point.num_examples, point.size)
        return sizes_of_branches(point.size, min(point.num_examples // 2, length // PARTS), point.smallest)

    def _advance(self, what: str = "") -> None:
        if self.progress is not None:
            fixed, each = mean_seconds(self.rows)
            left, done = sum(fixed + each * updates for updates in self.left), sum(row.seconds for row in self.rows)
            self.progress(done / (done + left) if done + left else 1.0, what)


def _check_sizes(sizes: Any, num_examples: int, length: int, chosen_here: bool) -> None:
    """Raise `ConfigError` unless there are two sizes that fit the data and a branch."""
    if len(sizes) < 2:
        problem = f"a branch of {length} examples has room for the batch sizes {list(sizes)} only, with {PARTS} updates or more"
        raise ConfigError("length", length / num_examples, problem, "take longer branches, or give sizes")
    if not chosen_here and sizes[-1] > num_examples:
        raise ConfigError("sizes", list(sizes), f"must be at most N = {num_examples}, the examples of one pass")


def _refuse_equal_seeds(rows: Sequence[BranchRow]) -> None:
    """Raise `ConfigError` if all seeds are the same training, bit for bit, which says nothing about their spread."""
    if len({row.losses for row in rows}) == 1 and not rows[0].curve.diverged:
        raise ConfigError("data", "a DataLoader", "gives every seed the same examples in the same order", "give it shuffle=True")

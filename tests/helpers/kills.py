"""Kill runs of train.py, resume them, and compare what they leave with a run that was never killed.

    python -m tests.helpers.kills --seed 3 --kills 50

Each history is a run that is killed with SIGKILL, once or several times, and resumed each time until it is done. The table counts the
kills of each kind and, for each thing that a run leaves, in how many histories it equals that of the reference. Runs are forked from this
process, which has imported torch, so that a history takes about a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from noisescale.app.libraries import import_libraries
from tests.helpers.deaths import Death, arm
from tests.helpers.left_behind import compare
from tests.helpers.processes import environment_with
from tests.helpers.repository import REPOSITORY

OTHER_DISK = Path("/dev/shm")
BASE = ("data.subset_size=300", "epochs=4", "batch.size=20", "scheduler=cosine", "threads=1", "trainer=cpu")
OFTEN = (*BASE, "callbacks.last.every_n_updates=5")
START_UP = (
    "noisescale.app.train:read_config",
    "noisescale.app.module:build_module",
    "noisescale.app.loggers:RunLoggers.__enter__",
    "noisescale.execution.batch_size_scheduler:BatchSizeScheduler.setup",
    "noisescale.execution.batch_size_scheduler:BatchSizeScheduler.on_train_start",
    "noisescale.measures.noise_scale:NoiseScaleMonitor.on_train_start",
)
VALIDATION = ("noisescale.models.tasks:Task.validation_step", "noisescale.measures.epochs:EpochRecorder.on_validation_end")
TEST = ("noisescale.models.tasks:Task.test_step",)
FUNCTIONS = (*START_UP, *VALIDATION, *TEST)
PARTS = ("weights", "optimizer", "steps.csv", "epochs.csv", "best.ckpt", "TensorBoard", "results.json")


@dataclass(frozen=True)
class Kind:
    """A kind of kill.

    Args:
        name: for the table.
        words: the command line of the run.
        share: how many of 50 kills.
        where: what may be counted to die at, such as `last.ckpt write`, by their beginnings; empty: at a random moment.
        tmp: the folder for temporary files; None: this machine's.
        sweep: whether `words` is that of a sweep of two runs, in folders 0 and 1.
    """

    name: str
    words: tuple[str, ...]
    share: int
    where: tuple[str, ...] = ()
    tmp: Path | None = None
    sweep: bool = False

    def place(self, folder: Path) -> str:
        """The word that chooses the folder."""
        return f"hydra.sweep.dir={folder}" if self.sweep else f"hydra.run.dir={folder}"


KINDS = (
    Kind("at random, a checkpoint per epoch", BASE, 8),
    Kind("at random, a checkpoint every 5 updates", OFTEN, 8),
    Kind("in the write of last.ckpt", OFTEN, 5, ("last.ckpt", "previous.ckpt", "temporary")),
    Kind("the same, TMPDIR on another disk", OFTEN, 4, ("last.ckpt", "previous.ckpt", "temporary"), OTHER_DISK),
    Kind("in the write of best.ckpt", OFTEN, 3, ("best.ckpt",)),
    Kind("in the write of steps.csv", OFTEN, 4, ("steps.csv",)),
    Kind("in the write of epochs.csv", BASE, 3, ("epochs.csv",)),
    Kind("in the write of TensorBoard's file", OFTEN, 3, ("TensorBoard",)),
    Kind("in a validation", OFTEN, 3, VALIDATION),
    Kind("in the test", BASE, 2, TEST),
    Kind("in the write of results.json", BASE, 1, ("results.json",)),
    Kind("at start-up", OFTEN, 2, (*START_UP, ".hydra")),
    Kind("2 ranks", (*BASE, "trainer=ddp_cpu"), 2),
    Kind("pool, 2 runs at once", ("-m", "hydra/launcher=pool", "hydra.launcher.n_jobs=2", "seed=0,1", *BASE), 2, sweep=True),
)


def words_to_resume(folder: Path, words: Sequence[str]) -> list[str]:
    """The command line that continues the run in `folder`, or begins it again if it was killed before its first checkpoint."""
    saved = any((folder / "checkpoints" / f"{name}.ckpt").exists() for name in ("last", "previous"))
    return [f"resume={folder}"] if saved else [*words, f"hydra.run.dir={folder}"]


def start(words: Sequence[str], log: Path, tmp: Path | None = None, death: Death | None = None, counts: Path | None = None) -> int:
    """Run `python train.py WORDS` in a forked process; returns its number, which is also that of its process group."""
    sys.stdout.flush()
    if (child := os.fork()) != 0:
        return child
    status = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(REPOSITORY)
        os.environ.update(environment_with({} if tmp is None else {"TMPDIR": str(tmp)}))
        tempfile.tempdir = None
        seen = arm(death, FUNCTIONS)
        import train

        sys.argv = ["train.py", *words]
        try:
            train.main()
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        if counts is not None:
            counts.write_text(json.dumps(seen))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(child: int, after: float | None = None) -> int:
    """Wait for a run, and kill it and all its processes with SIGKILL once it is `after` seconds old; returns its status, -9 if killed."""
    deadline = None if after is None else time.monotonic() + after
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if deadline is not None else 0)
        if ended or (deadline is not None and time.monotonic() >= deadline):
            break
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@dataclass
class Reference:
    """A run that was never killed: its folder, its seconds, and what could have been died at."""

    folder: Path
    seconds: float
    counts: dict[str, int]

    def death(self, where: tuple[str, ...], draw: random.Random) -> Death:
        """A point to die at, all operations equally likely, and then all times at which they took place."""
        what = draw.choice(sorted(each for each in self.counts if each.startswith(where)))
        parts = {"write": ("before", "half", "after"), "copy": ("before", "half")}.get(what.rpartition(" ")[2], ("before", "after"))
        return Death(what, draw.randint(1, self.counts[what]), draw.choice(parts))


@dataclass
class Line:
    """A line of the table."""

    histories: int = 0
    kills: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def reference(kind: Kind, folder: Path) -> Reference:
    """The run of a kind, without a kill."""
    counts, began = folder.with_suffix(".json"), time.monotonic()
    status = finish(start([*kind.words, kind.place(folder)], folder.with_suffix(".log"), kind.tmp, counts=counts))
    if status != 0:
        raise RuntimeError(f"the reference failed with status {status}: {folder.with_suffix('.log').read_text()[-2000:]}")
    return Reference(folder, time.monotonic() - began, json.loads(counts.read_text()))


def history(kind: Kind, known: Reference, folder: Path, draw: random.Random, line: Line) -> None:
    """A run that is killed once, or in a third of all cases again while it is resumed, and then resumed to its end."""
    log, story, words = folder.with_suffix(".log"), list[str](), [*kind.words, kind.place(folder)]
    for _ in range(3):
        death = known.death(kind.where, draw) if kind.where else None
        after = None if death is not None else draw.uniform(0.05, known.seconds)
        if finish(start(words, log, kind.tmp, death), after) != -signal.SIGKILL:
            break  # it was done, or could not be resumed
        line.kills += 1
        story.append(f"{death.what} {death.nth} {death.part}" if death is not None else f"after {after:.2f} s")
        if kind.sweep or draw.random() < 2 / 3:
            break
        words = words_to_resume(folder, kind.words)
    if not story:
        shutil.rmtree(folder)
        return
    line.histories += 1
    found = dict.fromkeys(PARTS, "")
    for job in ("0", "1") if kind.sweep else ("",):
        if not _is_complete(folder / job):
            words = words_to_resume(folder / job, (*BASE, f"seed={job}") if kind.sweep else kind.words)
            if (status := finish(start(words, log, kind.tmp))) != 0:
                said = [each for each in log.read_text().splitlines() if each.startswith("error")] or [log.read_text()[-300:]]
                story.append(f"not resumed, status {status}: {said[-1]}")
        for part, difference in compare(known.folder / job, folder / job).items():
            found[part] = found[part] or difference
    line.equal.update(part for part in PARTS if not found[part])
    if any(found.values()):
        wrong = "; ".join(f"{part}: {what}" for part, what in found.items() if what)
        line.differences.append(f"{kind.name}: killed {', '.join(story)} -> {wrong}  [{folder}]")


def _is_complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "results.json").read_text())["status"] == "completed")
    except (OSError, ValueError):
        return False


def campaign(folder: Path, seed: int, kills: int, only: str = "", keep: bool = False) -> dict[str, Line]:
    """At least `kills` kills, in the proportions of KINDS, in new folders under `folder`; returns the lines of the table."""
    _import_everything()
    draw, lines = random.Random(seed), dict[str, Line]()
    references: dict[tuple[Any, ...], Reference] = {}
    chosen = [kind for kind in KINDS if only in kind.name and (kind.tmp is None or _is_another_disk(kind.tmp))]
    total = sum(kind.share for kind in chosen)
    for number, kind in enumerate(chosen):
        key = (kind.words, kind.tmp)
        if key not in references:
            references[key] = reference(kind, folder / f"reference-{number}")
        line, wanted = lines.setdefault(kind.name, Line()), max(1, -(-kills * kind.share // total))
        attempt = 0
        while line.kills < wanted and attempt < 5 * wanted:
            attempt += 1
            place, before = folder / f"{number}-{attempt}", len(line.differences)
            history(kind, references[key], place, draw, line)
            if not keep and len(line.differences) == before:
                shutil.rmtree(place, ignore_errors=True)
        print(f"{kind.name}: {line.kills} kills, {len(line.differences)} of {line.histories} histories differ", file=sys.stderr, flush=True)
    return lines


def _is_another_disk(tmp: Path) -> bool:
    return tmp.is_dir() and os.stat(tmp).st_dev != os.stat(tempfile.gettempdir()).st_dev


def _import_everything() -> None:
    """What a run imports, so that its forks need not."""
    import_libraries()
    for name in ("sklearn.datasets", "torch.utils.tensorboard", "tensorboard.compat.proto.event_pb2"):
        import_module(name)
    for name in ("loggers", "module", "outcome", "own_data", "results", "trainer"):
        import_module(f"noisescale.app.{name}")
    torch.set_num_threads(1)


def table(lines: dict[str, Line]) -> str:
    """Kind, kills, histories, and in how many of these each part is equal."""
    rows: list[tuple[str, ...]] = [("kind", "kills", "runs", *PARTS)]
    rows += [(name, str(line.kills), str(line.histories), *(str(line.equal[part]) for part in PARTS)) for name, line in lines.items()]
    totals = [sum(line.equal[part] for line in lines.values()) for part in PARTS]
    kills, histories = sum(line.kills for line in lines.values()), sum(line.histories for line in lines.values())
    rows.append(("all", str(kills), str(histories), *map(str, totals)))
    text = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([text[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *text[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill runs of train.py, resume them, and compare them with a run that was never killed.")
    parser.add_argument("--seed", type=int, default=0, help="decides where they are killed, except for random moments on a busy machine")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--only", default="", help="only kinds whose names have this")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; a temporary folder if it is not given")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    lines = campaign(folder.resolve(), chosen.seed, chosen.kills, chosen.only, keep=chosen.folder is not None)
    differences = [each for line in lines.values() for each in line.differences]
    print(table(lines), *differences, sep="\n")
    if chosen.folder is None and not differences:
        shutil.rmtree(folder)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

"""plan.py as a user runs it: its numbers are those of the plan and of the training that follows, and it reads no data and no torch."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from noisescale import schedules
from noisescale.files import read_rows
from noisescale.plans.duality import CyclicBatch, Dual
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import Fixed, Full
from tests.helpers.front_door import Outcome, plan, run, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

N = 1293
LR = 0.05
COLUMNS = ["step", "epoch", "examples_seen", "lr", "effective_batch_size", "micro_batch_size", "accumulate_grad_batches", "g"]


def planned(folder: Path, *arguments: str) -> Outcome:
    """Run plan.py, which must succeed, with `folder` as its output folder."""
    outcome = plan(*arguments, run_dir(folder))
    assert outcome.status == 0, outcome.err
    return outcome


def notes(outcome: Outcome) -> list[str]:
    return [line.removeprefix("note: ") for line in outcome.lines if line.startswith("note: ")]


# -- what it leaves ------------------------------------------------------------------------------------------------------------

WARM = ("warmup=linear", "warmup.epochs=2", "warmup.start_factor=0.1")
COSINE = schedules.Cosine(20)
CASES: dict[str, tuple[list[str], Plan]] = {
    "default": ([], Plan(COSINE, Fixed(32, last="carry"), N, 20)),
    "dual": (["batch=dual"], Plan(COSINE, Dual(32, rule="sgd", last="carry"), N, 20)),
    "cuts": (
        ["scheduler=multistep", "batch=hybrid", "batch.last=carry"],
        Plan(schedules.MultiStep([10, 15], 0.1), Dual(32, rule="sgd", max_size=64, last="carry"), N, 20),
    ),
    "warm": (
        ["batch=split", *WARM, "batch.match_last=false"],
        Plan(schedules.Warmup(2, 0.1).before(COSINE, 20), Dual(32, rule="sgd", growth=0.5, match_last=False, last="carry"), N, 20),
    ),
    "adam": (
        ["batch=seesaw", "optimizer=adam", f"optimizer.lr={LR}"],
        Plan(COSINE, Dual(32, rule="adaptive", match="ratio", growth=0.5, last="carry"), N, 20),
    ),
    "devices": (
        ["batch=dual", "trainer.devices=2", "max_micro_batch_size=8", "batch.match=ratio", "batch.max_size=1293"],
        Plan(COSINE, Dual(32, rule="sgd", match="ratio", max_size=N, last="carry"), N, 20, 2, 8),
    ),
    "wave": (["batch=cyclic", "scheduler=constant"], Plan(schedules.Constant(), CyclicBatch(32, 2, rule="sgd", last="carry"), N, 20)),
    "full": (["batch=full", "epochs=1", "optimizer=sgd", f"optimizer.lr={LR}"], Plan(schedules.Cosine(1), Full(last="carry"), N, 1)),
    "steps": (["batch=dual", "trainer.max_steps=50"], Plan(COSINE, Dual(32, rule="sgd", last="carry"), N, 20, max_updates=50)),
    "few": (["trainer.limit_train_batches=7"], Plan(COSINE, Fixed(32, last="carry"), N, 20, max_updates_per_epoch=7)),
    "one": (["trainer.limit_train_batches=1"], Plan(COSINE, Fixed(32, last="carry"), N, 20, max_updates_per_epoch=1)),
    "given N": (["data.size=10007", "batch=dual", "data=cifar10"], Plan(COSINE, Dual(32, rule="sgd", last="carry"), 10_007, 20)),
}


def to(values: list[float]) -> str:
    """Two numbers with three digits; or one with four, if the two are written alike."""
    short = list(dict.fromkeys(f"{value:.3g}" for value in values))
    return " to ".join(short) if len(short) > 1 else f"{values[0]:.4g}"


def whole(values: list[int]) -> str:
    return " to ".join(dict.fromkeys(map(str, values)))


def row_of(part: list[Update], plan: Plan) -> list[str]:
    """The cells of a row of the table except its epochs, computed from the updates that it stands for."""
    full = [u for u in part if u.effective_batch_size == u.planned_batch_size] or part
    ends = [full[0], full[-1]]
    return [
        to([LR * u.lr_factor for u in ends]),
        whole([u.effective_batch_size for u in ends]),
        whole([u.accumulate_grad_batches for u in ends]),
        to([plan.noise(u, LR) for u in ends]),
        str(len(part)),
    ]


@pytest.mark.cases(3)
@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_seen_before_training(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table, the totals and plan.csv are those of a plan that is built by hand, and plan.png is a figure."""
    monkeypatch.setenv("COLUMNS", "240")  # so that no cell of the table needs two lines
    words, expected = CASES[case]
    outcome = planned(tmp_path, *words)
    updates = list(expected)
    lines = outcome.out.splitlines()

    rows = [re.split(r" {2,}", line.strip()) for line in lines if re.match(r"\s*[\d.e-]+ to [\d.e-]+  ", line)]
    assert sum(int(row[-1]) for row in rows) == len(updates)
    first = 0
    for row in rows:
        part = updates[first : first + int(row[-1])]
        assert [*row[1:5], row[-1]] == row_of(part, expected)
        assert row[0].startswith(f"{part[0].epoch:.3g} to ")
        first += len(part)
    assert all(a[0].split(" to ")[1] == b[0].split(" to ")[0] for a, b in pairwise(rows))
    devices = "1 device" if expected.world_size == 1 else f"{expected.world_size} devices"
    assert lines[0].strip() == f"N = {expected.num_examples}, {expected.epochs} epochs; B = micro x accumulate x {devices}"

    total = f"{len(updates):,} update".replace(",", " ")
    assert any(line.startswith(total) for line in lines)
    assert lines[-2:] == [f"{os.path.relpath(tmp_path)}/plan.csv", f"{os.path.relpath(tmp_path)}/plan.png"]
    assert ("with momentum 0.9 the noise is g/(1-m) = 10 g" in lines) == (case not in ("adam", "full"))

    written = read_rows(tmp_path / "plan.csv")
    assert list(written[0]) == COLUMNS
    for line, update in zip(written, updates, strict=True):
        assert (int(line["step"]), int(line["examples_seen"])) == (update.start.step, update.start.examples_seen)
        assert (float(line["epoch"]), float(line["lr"])) == (update.epoch, LR * update.lr_factor)
        assert int(line["effective_batch_size"]) == update.effective_batch_size
        assert int(line["micro_batch_size"]) == expected.micro_batch_size(update)
        assert int(line["accumulate_grad_batches"]) == update.accumulate_grad_batches
        assert float(line["g"]) == pytest.approx(expected.noise(update, LR), rel=1e-12, abs=0)

    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.format == "PNG"
        assert all(500 <= pixels <= 2000 for pixels in picture.size)
        colours = picture.convert("RGB").getcolors(maxcolors=2**24)
    assert colours is not None
    assert len(colours) > 20  # something is drawn; the number of bytes depends on the fonts and on the compression
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", "plan.csv", "plan.png"}


def test_devices_are_in_the_table(tmp_path: Path) -> None:
    out = planned(tmp_path, *CASES["devices"][0]).out
    assert "micro x accumulate x 2 devices" in out
    assert re.search(r"  32 to \d+  +2(  | to \d)", out), "32 = 8 micro x 2 accumulate x 2 devices"
    assert re.search(
        r"^all-reduces, one per update: 41 in the first epoch, \d in the last\nat B = 32: 41 and 41, so this", out, re.MULTILINE
    )


@pytest.mark.parametrize("columns", ["", "nonsense", "10"])
def test_a_width_that_makes_no_sense_is_not_taken(columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    outcome = planned(tmp_path, "epochs=2")
    assert outcome.status == 0, outcome.err
    assert "…" not in outcome.out


WIDE = (
    *CASES.values(),
    (["batch=seesaw", "optimizer=adam", "max_micro_batch_size=20"], None),
    (["data.size=1281167", "experiment=smith2017_imagenet/increase", "max_micro_batch_size=64", "trainer.devices=8"], None),
)


@pytest.mark.cases(2)
@pytest.mark.parametrize("words", [words for words, _ in WIDE], ids=" ".join)
def test_a_plan_fits_80_columns_when_it_is_piped(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = planned(tmp_path, *words).out.splitlines()
    assert max(map(len, lines[:-2])) <= 80  # all lines except the two file names
    assert "…" not in "".join(lines)


# -- the training that follows -------------------------------------------------------------------------------------------------

SHORT = ("data.subset_size=200", "epochs=2", "threads=1", "callbacks=light", "logger=csv-only", "seed=3")


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    "words",
    [
        ("batch=dual", "batch.size=8", *WARM, "warmup.epochs=0.5", "max_micro_batch_size=5"),
        ("batch=seesaw", "batch.size=8", "optimizer=adam", "scheduler=multistep", "scheduler.milestones=[1]", "batch.last=spread"),
        ("batch=split", "batch.size=8", "batch.max_size=180", "trainer.max_steps=17", "scheduler=polynomial", "batch.match_last=false"),
        ("batch=cyclic", "batch.size=8", "batch.step_size_up=0.4", "trainer.limit_train_batches=4", "optimizer=rmsprop", "batch.last=drop"),
        ("batch=multistep", "batch.size=8", "batch.milestones=[1]", "trainer.limit_train_batches=1", "epochs=3"),
        ("batch=hybrid", "batch.size=8", "model=resnet18", "model.width=4", "model.ghost_batch_size=4", "max_micro_batch_size=12"),
    ],
    ids=["dual", "seesaw", "split", "cyclic", "one update an epoch", "ghost"],
)
def test_training_does_what_was_planned(words: tuple[str, ...], tmp_path: Path) -> None:
    """With the same overrides, every number in plan.csv is that in the steps.csv of train.py."""
    words = (*SHORT, *words)
    planned(tmp_path / "plan", *words)
    outcome = run(*words, run_dir(tmp_path / "train"))
    assert outcome.status == 0, outcome.err
    before, after = read_rows(tmp_path / "plan" / "plan.csv"), read_rows(tmp_path / "train" / "steps.csv")
    assert len(before) > 2
    for column in COLUMNS[:-1]:
        assert [float(row[column]) for row in before] == [float(row[column]) for row in after], column
    for a, b in zip(before, after, strict=True):
        assert float(a["g"]) == pytest.approx(float(b["g"]), rel=1e-12, abs=0)


def test_training_warns_of_the_same(tmp_path: Path) -> None:
    """Training warns of a rule that does not fit the optimizer, and of a cap, with its epoch."""
    words = ("batch=seesaw", "epochs=2", "callbacks=light", "logger=csv-only")
    outcome = run(*words, run_dir(tmp_path / "train"))
    said = [line for line in outcome.err.splitlines() if line.startswith("note: ")]
    assert len(said) == 2
    assert set(said) <= set(planned(tmp_path / "plan", *words).lines)


# -- notes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("batch=dual", r"B reaches its cap N/10 = 129 at epoch 13\.6\d: .*"),
        ("batch=dual batch.max_size=1000", r"B = \d+ at epoch [\d.]+ is above N/10 = 129[:,] .*"),
        ("scheduler=multistep batch=dual batch.max_size=1293", r"after the cut at epoch 10\.\d+ lr is 0\.0\d+, .* lr h.*"),
        ("batch.size=1000", r"momentum 0\.9 at B = 1000 takes B/\(N\(1-m\)\) = 7\.7 epochs to fill .*"),
        ("batch.last=partial", r"the window that ends epoch 1 has 13 of 32 examples, 2\.(46|5)x the noise; .*"),
        ("optimizer=adam batch=dual batch.rule=adaptive", r"batch\.rule=adaptive keeps .* Adam.*"),
        ("optimizer=sgd batch=seesaw", r"batch\.rule=adaptive keeps .* SGD.*"),
    ],
)
def test_notes(words: str, note: str, tmp_path: Path) -> None:
    outcome = planned(tmp_path, *words.split())
    assert [line for line in notes(outcome) if re.fullmatch(note, line)], outcome.err
    assert "note:" not in outcome.out


@pytest.mark.slow
def test_the_rule_that_follows_the_optimizer_is_said(tmp_path: Path) -> None:
    assert "note: batch.rule=sgd follows optimizer=momentum" in planned(tmp_path, "batch=dual", "epochs=1").lines
    assert "note: batch.rule=sgd follows optimizer=adam" in planned(tmp_path, "batch=dual", "optimizer=adam", "epochs=1").lines
    assert "follows" not in planned(tmp_path, "batch=dual", "batch.rule=sgd", "epochs=1").err


# -- sweeps --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_is_a_line_per_plan(tmp_path: Path) -> None:
    words = ("scheduler=cosine,constant", "batch=small,dual", "epochs=20")
    outcome = plan("-m", *words, "batch.last=partial", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if "updates" in line]
    assert [line.partition(":")[0] for line in lines] == [
        f"scheduler={scheduler} batch={batch} epochs=20 batch.last=partial"
        for scheduler in ("cosine", "constant")
        for batch in ("small", "dual")
    ]
    assert lines[0].endswith(": 820 updates; 466 with the same noise in the batch (batch=dual), 1.8x fewer")
    assert lines[1].endswith(": 466 updates instead of 820 at B = 32 with the same noise, 1.8x fewer")
    assert "accumulate" not in outcome.out, "no tables in a sweep"
    for number in range(4):
        assert (tmp_path / str(number) / "plan.csv").is_file()
        assert (tmp_path / str(number) / "plan.png").is_file()


def test_a_sweep_goes_on_after_bad_input(tmp_path: Path) -> None:
    outcome = plan("-m", "batch.size=0,64", "epochs=1", f"hydra.sweep.dir={tmp_path}")
    assert outcome.status == 2
    assert [line for line in outcome.lines if line.startswith("error: ")] == [
        "error: batch.size=0: must be a whole number of examples, at least 1  (run: batch.size=0)"
    ]
    assert "batch.size=64 epochs=1: 21 updates" in outcome.out

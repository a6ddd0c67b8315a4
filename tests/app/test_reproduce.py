"""reproduce.py: options, tuning, what is trained and what is not, the pages; and a real claim that is killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import reproduce as script
from noisescale.app.claim_results import result_of
from noisescale.app.claim_runs import found_runs
from noisescale.app.claims import claim_at
from noisescale.app.reproduce import Options, reproduce
from noisescale.errors import ConfigError
from noisescale.studies.claims.overview import write_overview
from noisescale.studies.claims.page import page_of, write_page
from noisescale.studies.claims.verdict import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from noisescale.studies.runs import identity, runs_in
from tests.helpers.front_door import outcome_of
from tests.helpers.repository import CONF, REPOSITORY

CLAIM = """
sentence: A larger rate is better, and twice the batch is the same.
source: nobody
runtime: none
seeds: 4
words: [epochs=2]
curves: [train/loss]
tuning: {metric: loss, best: min}
arms:
  low: [optimizer.lr=0.1]
  tuned: {words: [epochs=3], grid: {optimizer.lr: [0.2, 0.3]}}
  again: [optimizer.lr=0.10001]
metrics: {loss: {epochs: train/loss, if_diverged: 9}, updates: {results: updates}}
checks:
  better: {ratio: [tuned, low], of: loss, below: 0.9}
  same: {ratio: [again, low], of: loss, inside: [0.9, 1.1]}
  seen: {control: true, ratio: [tuned, low], of: loss, outside: [0.9, 1.1]}
scales: {smoke: {}}
"""


@dataclass
class Fake:
    """Carries out runs by writing their files: the loss is 1 - lr, with a little noise of the seed."""

    loss: Any = lambda lr: 1 - lr
    state: str = "completed"
    keeps: bool = False
    """Whether a run that is there is left out, as the runner does."""
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def carry_out(self, jobs: Sequence[tuple[str, ...]], folder: Path, title: str) -> None:
        there = found_runs(folder) if self.keeps and folder.exists() else {}
        for words in jobs:
            if identity(words) in there:
                continue
            self.asked.append(words)
            values = dict(word.split("=") for word in words)
            lr, seed = float(values["optimizer.lr"]), int(values["seed"])
            run = folder / str(len(self.asked))
            run.mkdir(parents=True)
            (run / ".run.json").write_text(json.dumps({"status": "started", "words": words}))
            (run / "results.json").write_text(json.dumps({"status": self.state, "updates": 10, "seconds": 1.0}))
            loss = self.loss(lr) * (1 + 0.001 * (seed % 5))
            (run / "epochs.csv").write_text(f"epoch,train/loss\n1,2.0\n2,{loss}\n")


@pytest.fixture(name="conf")
def _conf(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "claim").mkdir(parents=True)
    (tmp_path / "conf" / "claim" / "mine.yaml").write_text(CLAIM)
    return tmp_path / "conf"


def test_an_arm_is_tuned_with_other_seeds_than_it_is_judged_with(conf: Path, tmp_path: Path) -> None:
    claim, fake = claim_at("mine", "smoke", conf), Fake()
    result = result_of(claim, tmp_path / "runs", fake)  # type: ignore[arg-type]
    assert result.verdict.word == SUPPORTED
    assert result.chosen["tuned"] == ("optimizer.lr=0.3",)
    seeds = {("optimizer.lr=0.2" in words or "optimizer.lr=0.3" in words, words[-1]) for words in fake.asked}
    assert seeds == {(True, f"seed={seed}") for seed in (0, 1, 2, 3, 1000, 1001)} | {(False, f"seed={seed}") for seed in range(4)}
    assert not any("optimizer.lr=0.2" in words and int(words[-1][5:]) < 1000 for words in fake.asked)
    assert all("epochs=2" not in words for words in fake.asked if "epochs=3" in words), "an arm's word wins"


@pytest.mark.parametrize(("loss", "word"), [(lambda lr: 1 + 5 * lr, NOT_SUPPORTED), (lambda lr: 1.0, INCONCLUSIVE)])
def test_the_verdict_follows_the_runs(loss: Any, word: str, conf: Path, tmp_path: Path) -> None:
    result = result_of(claim_at("mine", "smoke", conf), tmp_path / "runs", Fake(loss=loss))  # type: ignore[arg-type]
    assert result.verdict.word == word


def test_runs_without_an_end_are_no_values(conf: Path, tmp_path: Path) -> None:
    text = CLAIM.replace("{words: [epochs=3], grid: {optimizer.lr: [0.2, 0.3]}}", "[optimizer.lr=0.3]")
    (conf / "claim" / "mine.yaml").write_text(text)
    claim = claim_at("mine", "smoke", conf)
    result = result_of(claim, tmp_path / "runs", Fake(state="interrupted"))  # type: ignore[arg-type]
    assert result.verdict.word == INCONCLUSIVE
    assert len(result.failed) == 12
    assert result.failed[0].startswith("arm low, seed 0: interrupted")


def test_a_run_that_diverged_has_the_value_that_the_metric_gives_it(conf: Path, tmp_path: Path) -> None:
    result = result_of(claim_at("mine", "smoke", conf), tmp_path / "runs", Fake(state="diverged"))  # type: ignore[arg-type]
    assert result.values["loss"]["low"] == [9, 9, 9, 9]


def test_pages(conf: Path, tmp_path: Path) -> None:
    result = result_of(claim_at("mine", "smoke", conf), tmp_path / "mine" / "runs", Fake())  # type: ignore[arg-type]
    page = write_page(result, tmp_path / "mine").read_text()
    assert page.startswith("# mine: supported\n")
    assert "| better | loss: tuned / low | 0.7778 | 0.7778 to 0.7778 | < 0.9 |" in page
    assert "`optimizer.lr=0.1` | 0.9013 ± 0.0012 | 10 ± 0 |" in page
    overview = write_overview(tmp_path, {"mine": result.claim.fingerprint, "other": ""}, "Claims").read_text()
    assert overview.startswith("# Claims\n")
    assert "| other | not run |" in overview
    assert "**supported**: all 2 checks hold | 3, 0, 0 | 4 | 12 |" in overview
    assert "the claim has changed since" in write_overview(tmp_path, {"mine": "another"}, "Claims").read_text()
    assert {file.name for file in tmp_path.glob("**/*.png")} == {"claim.png", "overview.png"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("claim=dul", "claim=dul: must be one of "),
        ("scale=smoke", "claim=: must be one of "),
        ("claim=dual scale=huge", "scale=huge: must be one of smoke, cpu, gpu"),
        ("claim=dual n_jobs=0", "n_jobs=0: must be a whole number of processes, at least 1"),
        ("claim=dual n_jobs=two", "n_jobs=two: must be a whole number of processes"),
        ("claim=dual first_seed=-1", "first_seed=-1: must be a whole number, at least 0"),
        ("claim=dual first_seed=x", "first_seed=x: must be a whole number"),
        ("claim=dual first_seed=4294967295", "first_seed=4294967295: must be a whole number, 0 to 42949672"),
        (
            "claim=dual,decay first_seed=998",
            "first_seed=998: the verdict of decay would use seeds that tune its arms, from 1000 on; for example",
        ),
        ("dual", "dual=: is not an option of reproduce.py, which has claim, scale, first_seed, n_jobs, folder, publish; write claim=dual"),
        ("claim=quadratic scale=gpu", "scale=gpu: the claim quadratic has no such scale; it has smoke, cpu"),
        ("claim=cyclical folder=/dev/null", "/dev/null"),
    ],
)
def test_bad_input_is_one_line(words: str, said: str) -> None:
    outcome = outcome_of(script, *words.split())
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_help_lists_the_claims() -> None:
    outcome = outcome_of(script, "--help")
    assert outcome.status == 0
    assert "\n  dual\n      Increasing the batch size" in outcome.out


def test_another_first_seed_is_another_verdict_on_other_runs(conf: Path, tmp_path: Path) -> None:
    """Tuning is the same; runs are shared where the seeds overlap, as those of any words are."""
    claim, fake = claim_at("mine", "smoke", conf), Fake(keeps=True)
    usual = result_of(claim, tmp_path / "runs", fake)  # type: ignore[arg-type]
    before = len(fake.asked)
    moved = replace(claim, first_seed=2)
    found = result_of(moved, tmp_path / "runs", fake)  # type: ignore[arg-type]
    assert {words[-1] for words in fake.asked[before:]} == {"seed=4", "seed=5"}
    assert len(fake.asked) - before == 6
    seeds = {
        arm: [word for run in runs if run for word in run.overrides or () if word.startswith("seed=")] for arm, runs in found.runs.items()
    }
    assert seeds == {arm: [f"seed={seed}" for seed in (2, 3, 4, 5)] for arm in claim.arms}
    assert found.values["loss"]["low"][:2] == usual.values["loss"]["low"][2:]
    assert found.values["loss"]["low"][2] != usual.values["loss"]["low"][0]
    again = result_of(claim, tmp_path / "runs", fake)  # type: ignore[arg-type]
    assert again.values == usual.values
    text = page_of(found)
    assert "with 4 seeds from 2: " in text
    assert "; seeds 2 to 5, the same in every arm" in text
    assert "python reproduce.py claim=mine scale=smoke first_seed=2\n" in text
    assert "first_seed" not in page_of(usual)


def test_another_first_seed_has_pages_of_its_own(conf: Path, tmp_path: Path) -> None:
    two_wells = (CONF / "claim" / "cyclical.yaml").read_text()
    (conf / "claim" / "mine.yaml").write_text(two_wells)
    for first in (0, 100):
        assert reproduce(Options(("mine",), "smoke", 1, tmp_path / "out", first), conf) == 0
    folder = tmp_path / "out" / "smoke"
    usual, fresh = (json.loads((pages / "mine" / "verdict.json").read_text()) for pages in (folder, folder / "from-seed-100"))
    assert (usual["first_seed"], fresh["first_seed"]) == (0, 100)
    titles = [(pages / "overview.md").read_text().splitlines()[0] for pages in (folder, folder / "from-seed-100")]
    assert titles == ["# Claims at scale smoke", "# Claims at scale smoke, with seeds from 100"]


def test_a_verdict_that_is_published_is_kept_with_its_words(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (conf / "claim" / "mine.yaml").write_text((CONF / "claim" / "cyclical.yaml").read_text())
    options = Options(("mine",), "smoke", 1, tmp_path / "out", 0, Path("kept"))
    assert reproduce(options, conf) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "kept/README.md"
    finding = tmp_path / "kept" / "mine" / "finding.md"
    finding.write_text("Supported.\nA cycle escapes in {cyclic_escapes} of the runs.\n")
    assert reproduce(options, conf) == 0
    for page in (finding.parent / "README.md", tmp_path / "kept" / "README.md"):
        assert "A cycle escapes in 1 of the runs." in page.read_text()
    capsys.readouterr()
    finding.write_text("Inconclusive.\nNobody knows.\n")
    assert reproduce(options, conf) == 1
    assert "was written for another verdict than supported" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="holds the verdict on mine at scale smoke"):
        reproduce(replace(options, scale="cpu"), conf)
    assert not (tmp_path / "out" / "cpu").exists(), "refused before anything is carried out"


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "reproduce.py", "claim=accumulation", f"folder={folder}", "n_jobs=2"]
    return subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def verdict_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "smoke" / "accumulation" / "verdict.json").read_text())
    assert found.pop("seconds") > 0
    found.pop("commits")  # of a working tree in which somebody commits meanwhile
    return found


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_verdict_and_runs_nothing_twice(tmp_path: Path) -> None:
    moments, runs = random.Random(0), tmp_path / "smoke" / "accumulation" / "runs"
    complete: dict[tuple[str, ...], float] = {}
    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=600)[0] is not None
    for _ in range(5):
        process = start(tmp_path)
        before, deadline = len(complete), time.monotonic() + 120
        wanted = before + moments.randint(1, 3)
        while process.poll() is None and time.monotonic() < deadline and len([*runs.glob("*/results.json")]) < wanted:
            time.sleep(0.05)
        time.sleep(moments.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for run in runs_in(runs):
            if run.state == "completed":
                when = (run.folder / "results.json").stat().st_mtime
                assert complete.setdefault(identity(run.overrides or ()), when) == when, "a complete run was carried out again"
    process = start(tmp_path)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert "accumulation (smoke): supported" in out
    verdicts = [verdict_of(folder) for folder in (tmp_path, tmp_path / "whole")]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0]["runs"] == 24
    found = [run for run in runs_in(runs) if run.state == "completed"]
    assert len(found) == len({identity(run.overrides or ()) for run in found}) == 24
    trained = [json.loads(file.read_text())["status"] for file in runs.rglob("results.json")]
    assert trained == ["completed"] * 24, "also in folders that were set aside"
    for run in found:
        when = (run.folder / "results.json").stat().st_mtime
        assert complete.get(identity(run.overrides or ()), when) == when

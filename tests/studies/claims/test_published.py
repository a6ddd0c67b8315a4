"""What is kept of a verdict, and the words about it, which cannot say anything else than its numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.studies.claims import published, summary
from noisescale.studies.claims.claim import Claim, read_claim
from noisescale.studies.claims.costs import costs_of
from noisescale.studies.claims.kept import FILE, read_verdict, verdicts_in
from noisescale.studies.claims.published import FINDING, check_publishable, publish
from noisescale.studies.claims.result import Result
from noisescale.studies.claims.summary import counted, summary_of, write_summary
from noisescale.studies.claims.verdict import judge
from noisescale.studies.runs import Run

DESCRIPTION = {
    "sentence": "Growing equals decaying.",
    "source": "nobody",
    "runtime": "none",
    "seeds": 3,
    "arms": {"decay": ["batch=small"], "grow": ["batch=dual"], "never": ["scheduler=constant"]},
    "metrics": {"loss": {"epochs": "train/loss"}},
    "checks": {
        "same": {"ratio": ["grow", "decay"], "of": "loss", "inside": [0.9, 1.1], "says": "the same loss"},
        "seen": {"control": True, "ratio": ["never", "decay"], "of": "loss", "above": 1.5},
    },
    "curves": ["train/loss", "val/loss"],
}
LOSSES = {"decay": [1.0, 1.02, 0.98], "grow": [1.01, 1.02, 0.97], "never": [2.0, 2.1, 2.0]}
SECONDS = {"decay": [10.0, 12.0, 11.0], "grow": [5.0, 6.6, 5.5], "never": [10.0, 12.0, 11.0]}
UPDATES = {"decay": 100, "grow": 40, "never": 100}


@pytest.fixture(autouse=True)
def _without_drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn in one test; they take half a second each."""
    if request.node.name != "test_a_folder_has_all_but_the_runs":
        monkeypatch.setattr(published, "draw_claim", lambda result, path: None)
        monkeypatch.setattr(summary, "draw_overview", lambda found, path: None)


def claim(name: str = "mine", scale: str = "cpu") -> Claim:
    return read_claim(name, scale, DESCRIPTION)


def result(
    folder: Path, losses: dict[str, list[float]] = LOSSES, of: Claim | None = None, states: Sequence[str] = ("completed",)
) -> Result:
    """A result whose runs are in `folder`, with two epochs each."""
    of = of or claim()
    runs = {}
    for arm, each in losses.items():
        runs[arm] = [Run(folder / arm / str(seed), states[seed % len(states)]) for seed in range(3)]
        for seed, loss in enumerate(each):
            place = folder / arm / str(seed)
            place.mkdir(parents=True, exist_ok=True)
            (place / "epochs.csv").write_text(f"epoch,train/loss,val/loss\n1,2.0,2.5\n2,{loss},3.0\n")
            results = {"seconds": SECONDS[arm][seed], "updates": UPDATES[arm], "machine": "a machine, 2 cores", "versions": {"torch": "2"}}
            runs[arm][seed] = replace(runs[arm][seed], results=results)
    values = {"loss": losses, "examples": {arm: [1000.0 * UPDATES[arm]] * 3 for arm in losses}}
    return Result(of, runs, values, judge(of, values), {}, tuning_seconds=30.0)


def test_a_folder_has_all_but_the_runs(tmp_path: Path) -> None:
    page = publish(result(tmp_path / "runs"), tmp_path / "results")
    assert {file.name for file in page.parent.iterdir()} == {"README.md", "claim.png", "verdict.json", "values.csv", "curves.csv"}
    rows = read_rows(page.parent / "values.csv")
    assert rows[4] == {
        "arm": "grow",
        "seed": "1",
        "state": "completed",
        "updates": "40",
        "seconds": "6.6",
        "loss": "1.02",
        "examples": "40000.0",
    }
    assert len(rows) == 9
    curves = read_rows(page.parent / "curves.csv")
    assert curves[1] == {"arm": "decay", "seed": "0", "epoch": "2", "train/loss": "1.0", "val/loss": "3.0"}
    assert len(curves) == 18
    verdict = read_verdict(page.parent / FILE)
    assert verdict is not None
    assert verdict["arms"] == {"decay": "batch=small", "grow": "batch=dual", "never": "scheduler=constant"}
    assert (verdict["machines"], verdict["versions"], verdict["tuning_seconds"]) == (["a machine, 2 cores"], ["torch 2"], 30.0)
    assert "Trained on a machine, 2 cores." in page.read_text()


def test_the_cost_is_that_of_the_arms_that_are_called_equal(tmp_path: Path) -> None:
    (cost,) = costs_of(result(tmp_path))
    assert cost.arms == ("grow", "decay")
    assert cost.updates.shown == pytest.approx(0.4)
    assert cost.seconds.shown == pytest.approx((0.5 * 0.55 * 0.5) ** (1 / 3))
    assert costs_of(result(tmp_path, states=("completed", "diverged"))) == [], "the seconds of a run that diverged say nothing"


def test_the_words_get_their_numbers_from_the_verdict(tmp_path: Path) -> None:
    place = tmp_path / "results" / "mine"
    place.mkdir(parents=True)
    words = "Ratio {same}, {seen}; mean {loss.decay}, {examples.decay}; {grow /\ndecay: seconds} of time, {grow / decay: updates} of all."
    (place / FINDING).write_text(f"Supported.\n{words}\n")
    page = publish(result(tmp_path / "runs"), tmp_path / "results").read_text()
    said = "Ratio 1.000 (0.983 to 1.017), 2.03 (1.98 to 2.08); mean 1, 100000; 0.516 (0.470 to 0.566) of time, 0.4 of all."
    assert said in page.replace("\n", " ")
    assert "Supported.\n" not in page
    assert said in summary_of(tmp_path / "results", {"mine": claim().fingerprint, "other": ""})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Supported.\nThe ratio is {sme}.\n", "mine/finding.md={sme}: is neither a check, nor metric.arm"),
        ("Supported.\nMean {loss.grew}.\n", "mine/finding.md={loss.grew}: is neither"),
        ("Supported.\n{grow / decay: hours}\n", "is neither"),
        ("Supported.\n{}\n", "is neither"),
        ("Not supported.\nThe ratio is {same}.\n", "mine/finding.md=Not supported.: was written for another verdict than supported"),
        ("", "mine/finding.md=: was written for another verdict"),
    ],
)
def test_words_that_do_not_fit_are_refused_and_leave_a_page_without_them(text: str, said: str, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / FINDING).write_text(text)
    with pytest.raises(ConfigError, match=r"finding\.md") as error:
        publish(result(tmp_path / "runs"), tmp_path)
    assert said in str(error.value)
    assert (place / "README.md").read_text().startswith("# mine: supported\n")
    assert "mine/finding.md does not fit: " in summary_of(tmp_path, {"mine": ""})


def test_another_verdict_is_not_replaced(tmp_path: Path) -> None:
    publish(result(tmp_path / "runs"), tmp_path / "results")
    before = (tmp_path / "results" / "mine" / FILE).read_text()
    for other, said in (
        (claim(scale="smoke"), "holds the verdict on mine at scale cpu"),
        (claim("another", scale="smoke"), "holds the verdict on mine at scale cpu"),
        (replace(claim(), first_seed=100), "holds the verdict on mine with seeds from 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            publish(result(tmp_path / "runs", of=other), tmp_path / "results")
    assert (tmp_path / "results" / "mine" / FILE).read_text() == before
    check_publishable(tmp_path / "results", claim())
    check_publishable(tmp_path / "results", claim("another"))


def test_a_folder_that_is_not_for_verdicts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(ConfigError, match=r"has a README\.md that is no page of verdicts"):
        check_publishable(tmp_path, claim())
    with pytest.raises(ConfigError, match=r"publish=.*cannot be used as a folder"):
        check_publishable(tmp_path / "README.md", claim())
    write_summary(tmp_path / "results", {"mine": ""})
    check_publishable(tmp_path / "results", claim())


def test_the_page_of_all_says_what_decided_and_what_has_changed(tmp_path: Path) -> None:
    losses = {**LOSSES, "grow": [1.3, 1.32, 1.28]}
    publish(result(tmp_path / "runs" / "a", losses), tmp_path / "results")
    publish(result(tmp_path / "runs" / "b", of=claim("ours")), tmp_path / "results")
    blind = {**LOSSES, "never": [1.0, 1.0, 1.0]}
    publish(result(tmp_path / "runs" / "c", blind, of=claim("open")), tmp_path / "results")
    names = {"mine": claim().fingerprint, "open": "another", "ours": claim("ours").fingerprint, "unknown": "x"}
    page = write_summary(tmp_path / "results", names).read_text()
    assert "of 3 of 4 claims" in page
    assert "| [mine](mine/README.md) | not supported; no longer a claim |" in summary_of(tmp_path / "results", {"ours": ""})
    assert "| [mine](mine/README.md) | not supported | same: loss: grow / decay | 1.300 | 1.290 to 1.310 | in (0.9, 1.1) |" in page
    assert "| [ours](ours/README.md) | supported | same: loss: grow / decay | 1.000 |" in page
    assert "| [open](open/README.md) | inconclusive; the claim has changed since | seen: loss: never / decay |" in page
    assert "| unknown | not run | | | | | | | |" in page
    assert "| mine | same: loss: grow / decay | in (0.9, 1.1) | 1.300 | 1.290 to 1.310 |" in page, "what would have to be true"
    assert "| ours | supported | seen: loss: never / decay | 2.03 |" in page, "the controls"
    assert "| ours | grow / decay | 0.4 | 0.516 | 0.470 to 0.566 |" in page, "the cost"
    assert counted(verdicts_in(tmp_path / "results")) == "1 is supported, 1 is not supported, and 1 is inconclusive"
    assert f"publish={(tmp_path / 'results').name}" in page


def test_a_file_that_is_no_verdict_is_refused_and_not_taken_for_a_claim_that_was_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for text in ("", "{", "[]", "<<<<<<< HEAD", json.dumps({"verdict": "supported"})):
        (tmp_path / "mine" / FILE).write_text(text)
        with pytest.raises(ConfigError, match=r"verdict\.json: ?.*is no verdict of this version|is no verdict of this version"):
            verdicts_in(tmp_path)
    assert verdicts_in(tmp_path / "nothing") == {}

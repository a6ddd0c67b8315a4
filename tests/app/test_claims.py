"""conf/claim/: every claim reads at each of its scales, its words are words of train.py, and its header says how to run it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from noisescale.app.claim_results import words_of
from noisescale.app.claims import claim_at, names_of_claims, scales_of
from noisescale.errors import ConfigError
from noisescale.studies.runs import identity
from tests.helpers.front_door import run
from tests.helpers.pages import blocks
from tests.helpers.repository import CONF, REPOSITORY

NAMES = names_of_claims(CONF)

SMALLEST = """
sentence: A is B.
source: nobody
runtime: none
seeds: 3
arms: {a: [optimizer.lr=0.1], b: [optimizer.lr=0.2]}
metrics: {loss: {epochs: train/loss}}
checks: {differs: {difference: [a, b], of: loss, above: 0}}
scales: {smoke: {}}
"""


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_is_complete(name: str) -> None:
    text = (CONF / "claim" / f"{name}.yaml").read_text()
    assert f"\n#   python reproduce.py claim={name}\n" in text
    assert {"smoke", "cpu"} <= set(scales_of(name, CONF))
    for scale in scales_of(name, CONF):
        claim = claim_at(name, scale, CONF)
        arms = [arm for arm in claim.arms.values() if arm.function is None]
        fixed = [words_of(claim, arm, (), 0) for arm in arms if not arm.grid]
        grids = [[words_of(claim, arm, chosen, 0) for chosen in arm.candidates()] for arm in arms if arm.grid]
        for runs in (fixed, *grids):  # a candidate of a grid may be another arm
            assert len({identity(words) for words in runs}) == len(runs), "two arms are the same run"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_words_of_a_claim_are_words_of_train(name: str) -> None:
    for scale in scales_of(name, CONF):
        claim = claim_at(name, scale, CONF)
        for arm in claim.arms.values():
            if arm.function is None:
                cfg = compose("config", ["output_dir=somewhere", *words_of(claim, arm, arm.candidates()[-1], 0)])
                OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def test_claims_are_no_options_of_train() -> None:
    outcome = run("--help")
    assert "claim:" not in outcome.out
    assert run("claim=dual").status == 2


def _claim(tmp_path: Path, text: str) -> None:
    (tmp_path / "claim").mkdir(exist_ok=True)
    (tmp_path / "claim" / "mine.yaml").write_text(text)
    claim_at("mine", "smoke", tmp_path)


def test_the_smallest_claim_reads(tmp_path: Path) -> None:
    _claim(tmp_path, SMALLEST)


def test_the_claim_that_the_page_shows_reads(tmp_path: Path) -> None:
    (shown,) = [content for language, content in blocks(REPOSITORY / "docs" / "claims.md") if language == "yaml"]
    _claim(tmp_path, shown)


def test_the_page_lists_the_claims() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "claims.md").read_text(), flags=re.MULTILINE)) == set(NAMES)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[optimizer.lr=0.1]", "{function: two_wells, arguments: {peek: 1}}", "do not fit two_wells: "),
        ("[optimizer.lr=0.1]", "{function: two_wells, arguments: {peak: 1}, words: [seed=1]}", "has no runs"),
        ("above: 0", "inside: 0.9", "must be [low, high]"),
        ("above: 0", "above: 0, control: maybe", "must be true or false"),
        ("seeds: 3", "seeds: 0", "claim/mine.yaml: seeds=0: must be a whole number of seeds, at least 1"),
        ("source: nobody\n", "", "claim/mine.yaml: source=None: is needed"),
        ("source: nobody", "sauce: nobody", "claim/mine.yaml: sauce=nobody: is no key of a claim here"),
        ("of: loss", "of: los", "claim/mine.yaml: checks.differs: metric=los: must be one of loss"),
        ("[a, b]", "[a, c]", "claim/mine.yaml: checks.differs: arm=c: must be one of a, b"),
        ("[a, b]", "[a]", "must name 2 arms"),
        (
            "above: 0",
            "inside: [-1, 1]",
            "says that arms have equal loss, but no check with control: true says that another arm must differ in it",
        ),
        ("above: 0", "above: high", "must be a finite number"),
        ("difference", "distance", "is no key of a claim here"),
        ("[optimizer.lr=0.1]", "[optimizer.lr]", "must be a list of overrides"),
        ("[optimizer.lr=0.1]", "{function: os.system}", "must be one of noisy_quadratic, ill_conditioned, two_wells"),
        ("[optimizer.lr=0.1]", "{grid: {optimizer.lr: [1, 2]}}", "tuning=None: is needed where an arm has a grid"),
        ("epochs: train/loss", "epoch: train/loss", "is no key of a claim here"),
        ("epochs: train/loss", "results: train/loss, reach: 1", "needs a column of epochs.csv, steps.csv, curvature.csv"),
        ("smoke: {}", "small: {}", "must have one of smoke, cpu, gpu"),
        ("arms: {a:", "arms: [a", "cannot be read"),
        ("metrics: {loss: {epochs: train/loss}}", "metrics: [loss]", "must be mappings"),
        ("checks: {differs: {", "checks: {differs: {control: true, ", "must have at least one that is not a control"),
    ],
)
def test_a_mistake_in_a_claim_is_named(before: str, after: str, said: str, tmp_path: Path) -> None:
    assert before in SMALLEST
    with pytest.raises(ConfigError) as caught:
        _claim(tmp_path, SMALLEST.replace(before, after))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

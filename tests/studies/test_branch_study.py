"""A study of branches: it trains nothing twice, leaves the module as it was, and its results follow from its rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import PARTS
from noisescale.plans import Fixed
from noisescale.schedules import Constant, Cosine
from noisescale.studies import branch_study, branches, branching
from noisescale.studies.branch_figure import draw_branches
from noisescale.studies.branch_results import PointFound
from noisescale.studies.branch_study import run_branches
from noisescale.studies.branch_table import print_point
from noisescale.studies.branch_words import in_words
from noisescale.studies.training import Training
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

QUICK: dict[str, Any] = {
    "epochs": 2,
    "at": [0.5, 1.5],
    "length": 0.5,
    "sizes": [4, 8],
    "examples": 50,
    "seeds": 2,
    "trainer": {"accelerator": "cpu"},
}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def study(folder: Path | None, module: Plain | None = None, **options: Any) -> list[PointFound]:
    data = DataLoader(Regression(), batch_size=7, shuffle=True)
    chosen = {**QUICK, **options}
    size = chosen.pop("batch", 8)
    return branches(module or Plain(network(), sgd), data, size, folder=folder, **chosen)


def rows(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder / "branches.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PointFound]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, study(folder)


def test_every_branch_has_the_same_number_of_examples(whole: tuple[Path, list[PointFound]]) -> None:
    folder, found = whole
    assert len(rows(folder)) >= 2 * 2 * 2
    assert {int(row["updates"]) * int(row["size"]) for row in rows(folder)} == {64}
    assert [round(each.at.epoch * N) for each in found] == [56, 160]
    assert all(row[f"loss_{PARTS}"] for row in rows(folder))
    first = found[0].rules[0].sizes
    assert [(each.size, each.lr) for each in first] == [(4, 0.025), (8, 0.05)]


def test_an_interrupted_study_goes_on_and_trains_nothing_twice(
    tmp_path: Path, whole: tuple[Path, list[PointFound]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[Any, ...]] = []
    train = branching.train_branch

    def counted(*args: Any) -> Any:
        if len(trained) == 3 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        trained.append((args[3].point, args[4], args[5]))
        return train(*args)

    monkeypatch.setattr(branch_study, "train_branch", counted)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path)
    found = study(tmp_path)
    assert rows(tmp_path) == rows(whole[0])
    assert len(trained) == len(set(trained)) == len(rows(tmp_path))
    assert found == whole[1]
    assert study(tmp_path) == found
    assert len(trained) == len(rows(tmp_path))


def test_more_seeds_and_later_times_are_added_to_what_is_there(
    tmp_path: Path, whole: tuple[Path, list[PointFound]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole[0], tmp_path / "study")
    trained: list[tuple[int, int]] = []
    train = branching.train_branch

    def counted(*args: Any) -> Any:
        trained.append((args[3].point, args[5]))
        return train(*args)

    monkeypatch.setattr(branch_study, "train_branch", counted)
    found = study(tmp_path / "study", seeds=3)
    assert {seed for _, seed in trained} == {2}
    assert [len(each.rules[0].reference.ends) for each in found] == [3, 3]
    trained.clear()
    study(tmp_path / "study", seeds=2, at=[0.5, 1.5, 2.0])
    assert {point for point, _ in trained} == {2}
    with pytest.raises(ConfigError, match=r"at=\[0\.5\]: .* has the measurements of a training with at=\[0\.5, 1\.5, 2\.0\]"):
        study(tmp_path / "study", at=[0.5])


@pytest.mark.cases(2)
@pytest.mark.parametrize(("pieces", "points"), [(7, [2]), (3, []), (0, []), (6, [2]), (99, [2, 2])])
def test_a_study_without_time_ends_with_what_is_whole(tmp_path: Path, pieces: int, points: list[int]) -> None:
    """Its pieces: the training, the probe, two branches of each of two sizes; and again at the second time."""
    left = [pieces]

    def may_begin(seconds: float) -> bool:
        assert seconds >= 0
        left[0] -= 1
        return left[0] >= 0

    data = DataLoader(Regression(), batch_size=7, shuffle=True)
    training = Training(Plain(network(), sgd), data, Fixed(size=8, last="carry"), Constant(), 2, 0, {}, {"accelerator": "cpu"})
    options = BranchOptions(**{key: value for key, value in QUICK.items() if key not in ("epochs", "trainer")})
    found = run_branches(training, options, tmp_path, {}, may_begin=may_begin)
    assert [len(each.rules[0].sizes) for each in found] == points
    again = run_branches(training, options, tmp_path, {})
    assert [len(each.rules[0].sizes) for each in again] == [2, 2]


def test_the_module_is_left_as_it_was_and_random_numbers_too() -> None:
    module = Plain(network(), sgd)
    before, state = weights(module), torch.get_rng_state()
    study(None, module, at=[0.5])
    assert torch.equal(weights(module), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_folder_of_another_study_is_refused(whole: tuple[Path, list[PointFound]]) -> None:
    others: dict[str, Any] = {"tolerance": 0.1, "seed": 1, "batch": 16, "sizes": [4, 16]}
    for key, value in others.items():
        with pytest.raises(ConfigError, match=rf"{key}=.*: .* has the measurements of a training with {key}="):
            study(whole[0], None, **{key: value})


def test_a_checkpoint_that_is_given_is_branched(tmp_path: Path, whole: tuple[Path, list[PointFound]]) -> None:
    found = study(tmp_path, ckpt_path=whole[0] / "point-1.ckpt", epochs=2, at=None)
    assert [each.rules[0].sizes for each in found] == [whole[1][1].rules[0].sizes]


@pytest.mark.slow
def test_a_branch_holds_the_rate_of_a_schedule(tmp_path: Path) -> None:
    found = study(tmp_path, schedule=Cosine(T_max=2), at=[1.0])
    assert 0.02 < found[0].at.lr < 0.03
    assert found[0].rules[0].sizes[1].lr == found[0].at.lr


@pytest.mark.slow
def test_branches_that_diverge_end_the_series_by_the_rate() -> None:
    found = study(None, Plain(network(), lambda p: torch.optim.SGD(p, lr=0.4)), at=[0.5], sizes=[4, 16, 32], batch=8, length=3)
    rule = found[0].rules[0]
    assert rule.critical.cause == "rate"
    assert rule.sizes[-1].compared.verdict == "worse"
    assert [each.compared.verdict for each in rule.sizes].count("worse") == 1, "larger ones were trained, too"


@pytest.mark.slow
def test_an_adaptive_optimizer_has_both_rules() -> None:
    found = study(None, Plain(network(), lambda p: torch.optim.Adam(p, lr=0.01)), at=[0.5])
    assert [rule.rule for rule in found[0].rules] == ["linear", "sqrt"]
    assert found[0].rules[1].sizes[0].lr == pytest.approx(0.01 / 2**0.5)


def test_branches_beyond_the_data_or_the_branch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sizes=\[8, 128\]: must be at most N = 103"):
        study(None, sizes=[8, 128], length=20)
    with pytest.raises(ConfigError, match=r"length=.*: a branch of 5 examples has room for the batch sizes"):
        study(None, sizes=None, length=0.05, at=[0.5])
    with pytest.raises(ConfigError, match=r"at=\[3\.0\]: must be at most epochs=2"):
        study(None, at=[3])


def test_the_table_the_words_and_the_figure(
    tmp_path: Path, whole: tuple[Path, list[PointFound]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = whole[1]
    print_point(found[0], BranchOptions(seeds=2))
    out = capsys.readouterr().out
    assert "branches of 64 examples, 2 seeds\nlearning rate linear in B\nworse: more than " in out
    assert max(map(len, out.splitlines())) <= 80
    assert len(in_words(found)) == 2
    json.dumps([each.plain() for each in found], allow_nan=False)
    draw_branches(found, "a title with $", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_seeds_that_are_the_same_training_are_refused() -> None:
    unshuffled = DataLoader(Regression(), batch_size=7)
    with pytest.raises(ConfigError, match="gives every seed the same examples in the same order; give it shuffle=True"):
        branches(Plain(network(), sgd), unshuffled, 8, **QUICK)

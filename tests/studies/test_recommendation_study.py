"""A recommendation end to end on a small regression: measured once, kept in files, and the module left as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from noisescale.errors import ConfigError
from noisescale.schedules import Cosine
from noisescale.studies import probes, recommend
from noisescale.studies.recommendation_figure import draw_recommendation
from noisescale.studies.recommendation_study import Recommended
from noisescale.studies.time_budget import Budget
from tests.helpers.regression import Plain, Regression, network
from tests.helpers.trainings import ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)


def recommended(folder: Path | None, module: Plain | None = None, **options: Any) -> Recommended:
    data = DataLoader(Regression(), batch_size=7, shuffle=True)
    chosen = {"budget": 0.4, "epochs": 2, "schedule": Cosine(), "trainer": {"accelerator": "cpu"}, **options}
    return recommend(module or Plain(network(), sgd), data, 8, folder=folder, **chosen)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recommended, Plain, torch.Tensor]:
    folder, module = tmp_path_factory.mktemp("recommended"), Plain(network(), sgd)
    before = weights(module).clone()
    return folder, recommended(folder, module), module, before


@pytest.mark.slow
def test_it_measures_recommends_and_leaves_the_module_as_it_was(
    whole: tuple[Path, Recommended, Plain, torch.Tensor], tmp_path: Path
) -> None:
    _, found, module, before = whole
    assert torch.equal(weights(module), before)
    measured = found.measured
    assert [each.batch_size for each in measured.speeds] == [2, 4, 8, 16, 32]
    assert all(each.low <= each.median <= each.high for each in measured.speeds)
    assert measured.branches
    assert found.found.batch_size in (2, 4, 8, 16, 32)
    assert found.updates >= 1
    draw_recommendation(measured, found.found, "a title", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(
    whole: tuple[Path, Recommended, Plain, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found, *_ = whole

    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(probes, "speeds_of", again)
    monkeypatch.setattr("noisescale.studies.branch_study.train_branch", again)
    assert recommended(folder) == found
    with pytest.raises(ConfigError, match=r"epochs=3: .* has the (branches|measurements) of a training with epochs=2"):
        recommended(folder, epochs=3)


@pytest.mark.slow
def test_a_larger_budget_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    few = recommended(tmp_path, budget=0.02)
    assert few.measured.cut_short
    assert not few.found.is_sure
    used = Budget(0.0, tmp_path / "time.json").used
    assert used < 1.2 + 2.0  # and the last piece of work
    more = recommended(tmp_path, budget=0.6)
    assert sum(len(each.rules[0].sizes) for each in more.measured.branches) > sum(len(each.rules) for each in few.measured.branches)
    assert Budget(0.0, tmp_path / "time.json").used < 36 + 4
    assert recommended(tmp_path, budget=0.6) == more
    assert recommended(tmp_path, budget=0.3) == more, "a smaller budget takes nothing away"


@pytest.mark.parametrize("budget", [0, -1, float("nan"), "ten"])
def test_a_budget_that_is_no_time_is_refused(budget: Any) -> None:
    with pytest.raises(ConfigError, match="budget"):
        recommended(None, budget=budget)


@pytest.mark.slow
def test_a_damaged_file_is_named(whole: tuple[Path, Recommended, Plain, torch.Tensor], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "copy")
    (tmp_path / "copy" / "speeds.json").write_text("{")
    with pytest.raises(ConfigError, match=r"speeds.json: is damaged; delete it, and the same command measures it again"):
        recommended(tmp_path / "copy")

"""data.balanced: all classes are equally likely in training, whether a plan draws the examples or the DataLoader itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from noisescale.execution import PlannedBatches
from noisescale.files import read_rows
from noisescale.plans import Fixed, Plan
from noisescale.schedules import Constant
from tests.helpers.chi_square import p_value
from tests.helpers.front_door import plan, run
from tests.helpers.images import COMMON, folder, write_images
from tests.helpers.refusals import error_of
from tests.helpers.repository import CONF
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

N = 54
"""50 images of one class and 4 of the other."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rare")
    write_images(folder, n=50)
    for file in sorted((folder / "train" / "dog").iterdir())[4:]:
        file.unlink()
    return folder


def test_a_rare_class_is_drawn_as_often_as_a_common_one(root: Path) -> None:
    data = folder(root, balanced=True, val_fraction=0)
    data.setup("fit")
    source = data.train_dataloader()
    assert isinstance(source.sampler, WeightedRandomSampler)
    batches = PlannedBatches(Plan(Constant(), Fixed(size=9), N, epochs=40, replacement=True), source)
    labels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for _ in range(40):
        for _, batch in batches:
            labels.update(batch[1].tolist())
            images.update(batch[2].tolist())
    assert labels.total() == 40 * N
    assert p_value(labels, {0: 0.5, 1: 0.5}) > 1e-4
    classes = source.dataset.labels.tolist()  # type: ignore[attr-defined]
    assert p_value(images, {index: 0.5 / (50, 4)[label] for index, label in enumerate(classes)}) > 1e-4


def test_without_a_plan_torch_draws_and_evaluation_is_as_ever(root: Path) -> None:
    data = folder(root, balanced=True)
    data.setup()
    torch.manual_seed(0)
    labels = torch.cat([batch[1] for _ in range(20) for batch in data.train_dataloader()])
    assert 0.4 < float(labels.double().mean()) < 0.6
    assert not isinstance(data.test_dataloader().sampler, WeightedRandomSampler)
    assert sorted(torch.cat([batch[1] for batch in data.test_dataloader()]).tolist()) == [0, 0, 1, 1]


def test_plan_and_training_have_the_noise_of_draws_with_replacement(root: Path, tmp_path: Path) -> None:
    words = ["data=imagefolder", f"data.root={root}", "data.val_fraction=0", "data.balanced=true", "data.cache=false", "threads=1"]
    words += ["batch.size=9", "epochs=2", "model=logistic", "optimizer=sgd"]
    assert plan(*words, f"hydra.run.dir={tmp_path / 'plan'}").status == 0
    trained = run(*words, f"hydra.run.dir={tmp_path / 'train'}")
    assert trained.status == 0, trained.err
    assert f"; N {N}, with replacement; lr " in trained.err
    happened, planned = read_rows(tmp_path / "train" / "steps.csv"), read_rows(tmp_path / "plan" / "plan.csv")
    assert [row["g"] for row in happened] == [row["g"] for row in planned]
    assert float(happened[0]["g"]) == pytest.approx(float(happened[0]["lr"]) * N / 9, rel=1e-15)


def test_the_default_is_that_of_the_options() -> None:
    assert "\nbalanced: false\n" in (CONF / "data" / "_images.yaml").read_text()
    assert "balanced" not in COMMON
    assert folder("x").balanced is False
    error_of(lambda: folder("x", balanced="yes"), "balanced", "must be true or false")

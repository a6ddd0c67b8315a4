"""range_test.py with a module that makes its own optimizer: one or several parameter groups, with and without a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tests.helpers.front_door import QUICK, branches, range_test, run_dir
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class OneGroup(pl.LightningModule):
    """A linear classifier of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TwoGroups(OneGroup):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([{"params": [self.layer.weight], "lr": 0.1}, {"params": [self.layer.bias], "lr": 0.2}])


class Scheduled(OneGroup):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class TwoOptimizers(OneGroup):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([self.layer.weight], lr=0.1), torch.optim.SGD([self.layer.bias], lr=0.1)]


def words(module: type[OneGroup]) -> tuple[str, str]:
    return f"module._target_={__name__}.{module.__name__}", "range_test.updates=40"


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("module", "more", "groups"),
    [
        (OneGroup, (), ""),
        (TwoGroups, (), "; it is that of the first parameter group, and the ratios of the groups are 1, 2"),
        (Scheduled, (), ""),
        (Scheduled, ("scheduler=none",), ""),
    ],
)
def test_the_rate_is_one_for_the_code(module: type[OneGroup], more: tuple[str, ...], groups: str, tmp_path: Path) -> None:
    outcome = range_test(*QUICK, *words(module), *more, run_dir(tmp_path))
    assert outcome.status == 0, outcome.err
    said = f"note: {words(module)[0]} makes its own optimizer: set its learning rate in your code{groups}"
    assert said in outcome.lines
    assert "optimizer.lr" not in outcome.out, "a word that would be refused"
    left_out = "note: StepLR of the module is left out of the range test, which sets the rate"
    assert outcome.lines.count(left_out) == (module is Scheduled)


@pytest.mark.slow
def test_what_cannot_be_tested_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    outcome = range_test(*QUICK, *words(TwoOptimizers), run_dir(tmp_path / "0"))
    assert outcome.status == 2
    assert outcome.lines[-1].startswith("error: configure_optimizers=several optimizers: a study steps exactly one; return one, with")
    outcome = branches(*QUICK, words(Scheduled)[0], run_dir(tmp_path / "1"))
    assert outcome.lines[-1] == (
        "error: lr_scheduler=StepLR: sets the learning rate, and so does a study; return the optimizer alone from configure_optimizers"
    )
    outcome = branches(*QUICK, words(Scheduled)[0], "scheduler=none", run_dir(tmp_path / "2"))
    assert f"choose a schedule, and let configure_optimizers of {words(Scheduled)[0]} return the optimizer alone" in outcome.lines[-1]

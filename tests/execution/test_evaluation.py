"""The weights of a checkpoint can be tested and validated with the callbacks of the training, which that does not disturb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.errors import ConfigError
from noisescale.files import read_rows
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain, Regression, Validated, network
from tests.helpers.trainings import Rates, SaveAndDie, Stop, fit, ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]


class Evaluated(Validated):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/examples", float(len(batch[0])))

    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()


def planned() -> BatchSizeScheduler:
    return BatchSizeScheduler(batching.Fixed(20), schedules.Cosine(T_max=4), max_micro_batch_size=8)


@pytest.fixture(params=["with a plan", "without a plan"])
def inside_an_update(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint from inside an epoch."""
    callbacks = [planned()] if request.param == "with a plan" else []
    with pytest.raises(Stop):
        fit(Evaluated(network()), *callbacks, NoiseScaleMonitor(False), SaveAndDie(5, tmp_path / "in.ckpt"))
    return tmp_path / "in.ckpt"


@pytest.mark.parametrize("how", ["test", "validate"])
def test_a_trainer_with_a_plan_evaluates_any_checkpoint(how: str, inside_an_update: Path) -> None:
    trainer = quiet_trainer(planned(), NoiseScaleMonitor(False))
    (found,) = getattr(trainer, how)(Evaluated(network()), ckpt_path=inside_an_update, verbose=False)
    assert found


def test_a_training_goes_on_after_a_test_as_without_it(tmp_path: Path, inside_an_update: Path) -> None:
    data = DataLoader(Regression())

    def train(folder: Path, evaluate: bool) -> Plain:
        module = Evaluated(network())
        trainer = quiet_trainer(planned(), NoiseScaleMonitor(folder / "steps.csv"), max_epochs=2)
        trainer.fit(module, data)
        if evaluate:
            end = {name: value.clone() for name, value in module.state_dict().items()}
            trainer.test(module, ckpt_path=inside_an_update, verbose=False)
            module.load_state_dict(end)
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module.train(), data)
        return module

    assert torch.equal(weights(train(tmp_path / "a", True)), weights(train(tmp_path / "b", False)))
    assert read_rows(tmp_path / "a" / "steps.csv") == read_rows(tmp_path / "b" / "steps.csv")


def test_a_checkpoint_that_was_refused_leaves_nothing_behind(inside_an_update: Path) -> None:
    class Fewer(Regression):
        def __len__(self) -> int:
            return super().__len__() - 1

    batches, rates = planned(), Rates()
    with pytest.raises(ConfigError):
        fit(Evaluated(network()), batches, data=Fewer(), ckpt_path=inside_an_update)
    module, alone = Evaluated(network()), Evaluated(network())
    fit(module, batches, rates)
    fit(alone, planned())
    assert torch.equal(weights(module), weights(alone))
    assert len(rates.rates) == 18

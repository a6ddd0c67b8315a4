"""A search of Lightning's Tuner is refused in one line, and the trainer is as before."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.tuner.tuning import Tuner
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor
from noisescale.plans import strategies as batching
from tests.helpers.refusals import error_of
from tests.helpers.regression import Plain, Regression, Validated, network, sgd
from tests.helpers.trainings import ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Tunable(Validated):
    def __init__(self) -> None:
        super().__init__(network())
        self.lr, self.batch_size = 0.1, 7

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Regression(), batch_size=self.batch_size, shuffle=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = sgd(self.net.parameters())
        optimizer.param_groups[0]["lr"] = self.lr
        return optimizer


def planned() -> BatchSizeScheduler:
    return BatchSizeScheduler(batching.Fixed(40), schedules.Cosine(), max_micro_batch_size=16)


def settings(trainer: Any) -> dict[str, Any]:
    names = ("limit_train_batches", "limit_val_batches", "max_steps", "max_epochs", "accumulate_grad_batches", "global_step", "loggers")
    return {
        **{name: getattr(trainer, name) for name in (*names, "reload_dataloaders_every_n_epochs")},
        "callbacks": list(trainer.callbacks),
        "data": trainer.fit_loop._data_source.instance,
    }


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("lr_find", ("noisescale.studies.range_test", "at the planned batch size")),
        ("scale_batch_size", ('max_micro_batch_size="auto"',)),
    ],
)
def test_a_search_is_refused_and_the_training_after_it_is_as_without_it(tmp_path: Any, search: str, words: tuple[str, ...]) -> None:
    module, alone = Tunable(), Tunable()
    trainer = quiet_trainer(planned(), NoiseScaleMonitor(False), ModelCheckpoint(tmp_path), limit_val_batches=1, enable_checkpointing=True)
    trainer.fit_loop._data_source.instance = module  # as it will be after any fit
    before = settings(trainer)
    for _ in range(2):
        error_of(lambda: getattr(Tuner(trainer), search)(module), "tuner", search, *words)
        assert settings(trainer) == before
    assert (module.lr, module.batch_size) == (0.1, 7)
    trainer.fit(module)
    quiet_trainer(planned()).fit(alone)
    assert trainer.global_step == 9
    assert torch.equal(weights(module), weights(alone))


def test_what_lightning_itself_refuses_leaves_the_trainer_as_before_too() -> None:
    """It would leave its search among the callbacks, and the next `fit` would be refused for it."""
    module = Plain(network())
    data = DataLoader(Regression(), batch_size=7)
    trainer = quiet_trainer(planned())
    before = list(trainer.callbacks)  # type: ignore[attr-defined]
    with pytest.raises(MisconfigurationException):
        Tuner(trainer).scale_batch_size(module, data)
    assert trainer.callbacks == before  # type: ignore[attr-defined]
    trainer.fit(module, data)
    assert trainer.global_step == 9


def test_a_search_that_trains_nothing_is_allowed() -> None:
    """The largest validation batch has nothing to do with the plan."""
    trainer = quiet_trainer(planned())
    module = Tunable()
    found = Tuner(trainer).scale_batch_size(module, dataloaders=None, method="validate", max_trials=1, steps_per_trial=1)
    assert found is not None
    module.train()
    trainer.fit(module)
    assert trainer.global_step == 9


def test_what_is_found_with_another_trainer_can_be_used() -> None:
    """The remedy that the refusal names."""
    module = Tunable()
    search = Tuner(quiet_trainer(max_epochs=1))
    assert search.scale_batch_size(module, max_trials=2, steps_per_trial=1, init_val=4) == 8
    found = search.lr_find(module, num_training=5, update_attr=False)
    assert found is not None
    trainer = quiet_trainer(BatchSizeScheduler(batching.Fixed(40), schedules.Cosine(), max_micro_batch_size=module.batch_size))
    trainer.fit(module)
    assert trainer.global_step == 9


def test_an_error_does_not_remove_a_search_that_the_user_has_put_there() -> None:
    finder = pl.callbacks.LearningRateFinder()
    trainer = quiet_trainer(planned(), finder)
    error_of(lambda: trainer.fit(Tunable()), "callbacks", "LearningRateFinder", "noisescale.studies.range_test")
    assert finder in trainer.callbacks  # type: ignore[attr-defined]

"""A trainer that was stopped goes on in another fit, with a checkpoint and without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from tests.helpers.regression import Plain, Regression, Validated, network, sgd
from tests.helpers.stopping import STRATEGIES, At, planned_updates, stop
from tests.helpers.trainings import fit, ignored, quiet_trainer, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]


@pytest.mark.cases(1)
@pytest.mark.parametrize("at", [3, 9, 10])
def test_the_same_trainer_goes_on_without_a_checkpoint(at: int) -> None:
    expected = Plain(network(dropout=0.3))
    fit(expected, BatchSizeScheduler(STRATEGIES["growing"], schedules.Cosine(), max_micro_batch_size=4, seed=5))
    module = Plain(network(dropout=0.3))
    trainer = quiet_trainer(BatchSizeScheduler(STRATEGIES["growing"], schedules.Cosine(), max_micro_batch_size=4, seed=5), max_steps=at)
    loader = DataLoader(Regression(), shuffle=True)
    trainer.fit(module, loader)
    assert trainer.global_step == at
    trainer.fit_loop.epoch_loop.max_steps = -1
    optimizer = trainer.optimizers[0].state_dict()
    module.make_optimizer = lambda parameters: _restored(parameters, optimizer)
    trainer.fit(module, loader)
    assert (trainer.global_step, trainer.current_epoch) == (16, 3)
    assert torch.equal(weights(module), weights(expected))


@pytest.mark.cases(1)
@pytest.mark.parametrize("at", [5, 9, 10])
def test_the_same_trainer_goes_on_from_a_checkpoint(at: int, tmp_path: Path) -> None:
    """Also one of the last update of an epoch (9), which is validated before Lightning stops."""
    trainer = quiet_trainer(
        BatchSizeScheduler(STRATEGIES["growing"], schedules.Cosine(), max_micro_batch_size=4, seed=5),
        At("on_train_batch_end", sum(update.accumulate_grad_batches for update in planned_updates()[:at]), stop),
        val_check_interval=0.4,
    )
    trainer.fit(module := Validated(network()), DataLoader(Regression(), shuffle=True))
    assert trainer.global_step == at
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    trainer.fit(module, DataLoader(Regression(), shuffle=True), ckpt_path=tmp_path / "saved.ckpt", weights_only=False)
    assert (trainer.global_step, trainer.current_epoch) == (16, 3)


def _restored(parameters: Any, state: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer with its momentum: Lightning makes a new one in each `fit`."""
    optimizer = sgd(parameters)
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        del group["initial_lr"]
        group["lr"] = 0.1
    return optimizer
